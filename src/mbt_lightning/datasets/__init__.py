"""One file per data set: from official annotations and a folder of media files to the rows of a manifest."""

from mbt_lightning.datasets.any_table import Table
from mbt_lightning.datasets.audioset import AudioSet
from mbt_lightning.datasets.ave import AVE
from mbt_lightning.datasets.base import DataSet
from mbt_lightning.datasets.class_folders import Folder
from mbt_lightning.datasets.cremad import CremaD
from mbt_lightning.datasets.epic_kitchens import EpicKitchens
from mbt_lightning.datasets.grid import Grid
from mbt_lightning.datasets.kinetics400 import Kinetics400
from mbt_lightning.datasets.kinetics_sounds import KineticsSounds
from mbt_lightning.datasets.moments_in_time import MomentsInTime
from mbt_lightning.datasets.vggsound import VGGSound

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
        Grid(),
        Folder(),
        Table(),
    )
}
"""The data sets by their names on the command line."""
