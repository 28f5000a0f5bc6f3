"""Official annotations and a folder of media to a manifest: a file a data set, all through the same steps."""

from mbt_lightning.data.prepare.audioset import AudioSet
from mbt_lightning.data.prepare.ave import AVE
from mbt_lightning.data.prepare.cremad import CremaD
from mbt_lightning.data.prepare.dataset import DataSet
from mbt_lightning.data.prepare.epic_kitchens import EpicKitchens
from mbt_lightning.data.prepare.folder import Folder
from mbt_lightning.data.prepare.kinetics400 import Kinetics400
from mbt_lightning.data.prepare.kinetics_sounds import KineticsSounds
from mbt_lightning.data.prepare.moments_in_time import MomentsInTime
from mbt_lightning.data.prepare.table import Table
from mbt_lightning.data.prepare.vggsound import VGGSound

DATASETS: dict[str, DataSet] = {
    dataset.name: dataset
    for dataset in (
        AudioSet(),
        VGGSound(),
        EpicKitchens(),
        Kinetics400(),
        KineticsSounds(),
        MomentsInTime(),
        CremaD(),
        AVE(),
        Folder(),
        Table(),
    )
}
"""The data sets by their name on the command line."""
