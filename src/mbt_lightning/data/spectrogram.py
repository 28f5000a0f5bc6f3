"""Waveform -> log-mel spectrogram: batched, on any device, float32 even under autocast.

Two recipes under one contract. Both make 100 time steps a second from 25 ms windows: `LogMel` follows the MBT paper
(section 4.2: 16 kHz mono, 128 mel bins, 25 ms Hamming window, 10 ms hop), `KaldiFbank` repeats AST's setting to the
bit, for weights that were trained on it.

Letters: B clips, N samples, time steps of the spectrogram, mel bins.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor, nn
from torchaudio.compliance import kaldi

from mbt_lightning.errors import UserError

UNMEASURED = (
    "the log-mel's mean or std is null, which means the measured one: measure it with `mbt stats MANIFEST`, "
    "read it with mbt_lightning.data.measure.read_measured, and give its numbers, e.g. LogMel(mean=-1.7, std=3.8)"
)
"""The error in Python, where the program does not fill the numbers in."""


class MelTransform(nn.Module):
    """Waveform to log-mel spectrogram: what all recipes share; a subclass gives the recipe.

    Nothing here is learned, and no buffer enters a checkpoint.

    Args:
        sample_rate: samples of the waveform a second.
        num_mels: mel bins.
        window_seconds: length of the analysis window.
        hop_seconds: step from one window to the next; must be a whole number of samples.
        mean: subtracted from every value of the log-mel; None means the one measured on the data (see
            `mbt_lightning.data.measure`), which must be filled in before the transform is used.
        std: then divides it; None likewise.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(
        self,
        sample_rate: int,
        num_mels: int,
        window_seconds: float,
        hop_seconds: float,
        mean: float | None,
        std: float | None,
    ) -> None:
        super().__init__()
        if sample_rate < 1:
            raise UserError(f"sample_rate is {sample_rate}; it must be a positive number of samples a second.")
        hop_samples = round(sample_rate * hop_seconds)
        if hop_samples < 1 or abs(sample_rate * hop_seconds - hop_samples) > 1e-6:
            raise UserError(
                f"hop_seconds {hop_seconds} is {sample_rate * hop_seconds:g} samples at sample_rate {sample_rate}; it "
                "must be a whole number, 1 or more. Resample the audio (16000 is the paper's rate) or change the hop."
            )
        # int, not round: Kaldi cuts the fraction off; the epsilon keeps 0.025 * 16000 at 400 whatever the rounding.
        window_samples = int(sample_rate * window_seconds + 1e-6)
        if window_samples < 2:
            raise UserError(
                f"window_seconds {window_seconds} is {window_samples} samples at sample_rate {sample_rate}; it must be "
                "2 samples or more. The paper's window is 0.025."
            )
        if std is not None and not std > 0:
            raise UserError(f"std is {std}; it must be above 0. Use 1.0 to leave the scale as it is.")
        self.sample_rate = sample_rate
        self.num_mels = num_mels
        self.window_samples = window_samples
        self.hop_samples = hop_samples
        self.mean = mean
        self.std = std

    def num_frames(self, window_seconds: float) -> int:
        """Time steps of audio of this length: its length over the hop, rounded; 8 s at a hop of 10 ms: 800.

        Args:
            window_seconds: length of the audio.
        """
        return self._steps(round(window_seconds * self.sample_rate))

    def forward(self, waveform: Tensor) -> Tensor:
        """The standardised log-mel of a batch, (B, N) -> (B, 1, time, mel) float32.

        Args:
            waveform: (B, N) mono at `sample_rate`, nominally in [-1, 1].

        Raises:
            UserError: not a (B, N) batch, or too short for one time step; mean or standard deviation is None.
        """
        if self.mean is None or self.std is None:
            raise UserError(UNMEASURED)
        return ((self.log_mel(waveform) - self.mean) / self.std).unsqueeze(1)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """The log-mel before standardisation, (B, N) -> (B, time, mel) float32.

        Args:
            waveform: (B, N) mono at `sample_rate`, nominally in [-1, 1].

        Raises:
            UserError: not a (B, N) batch, or too short for one time step.
        """
        if waveform.ndim != 2:
            raise UserError(f"waveform has the shape {tuple(waveform.shape)}; it must be (clips, samples), mono.")
        needed = max(self.min_samples, self.hop_samples)
        if waveform.shape[1] < needed:
            raise UserError(
                f"waveform holds {waveform.shape[1]} samples a clip; {type(self).__name__} needs {needed} or more "
                f"({needed / self.sample_rate:.3f} s). Choose a longer window."
            )
        # Powers of quiet audio lie below what float16 can hold, and bfloat16 would round the log to 1/64 and coarser.
        with torch.autocast(waveform.device.type, enabled=False):
            return self._log_mel(waveform.float(), self._steps(waveform.shape[1]))

    @property
    def is_measured(self) -> bool:
        """Whether mean and standard deviation are numbers."""
        return self.mean is not None and self.std is not None

    @property
    def min_samples(self) -> int:
        """The fewest samples that a waveform may have."""
        return self.window_samples

    def steps_of_audio(self, num_samples: int) -> int:
        """How many time steps of the log-mel are made of audio; those after them are padding.

        Args:
            num_samples: length of the waveform.
        """
        return self._steps(num_samples)

    def _steps(self, num_samples: int) -> int:
        return round(num_samples / self.hop_samples)

    def _log_mel(self, waveform: Tensor, num_steps: int) -> Tensor:
        """The recipe: float32 (B, N) -> (B, num_steps, mel)."""
        raise NotImplementedError


class LogMel(MelTransform):
    """The paper's log-mel: power spectrum of a Hamming window, triangular mel filters, log(x + offset).

    Time step i is centred on the time i * hop; the ends of the audio are mirrored, and the extra step that a centred
    transform gives at the very end is dropped. The window is padded with zeros to an FFT (a power of two) so long that
    every mel filter covers a frequency of it: with 128 filters at 16 kHz that is 1024 points, where 512 would leave
    some filters empty and their mel bins constant.

    The paper gives neither the FFT's size, nor the frequency range, nor the offset. The authors' own statistics of
    their features (mean 1.102, std 2.762, released configuration) therefore do not fit these. The defaults of `mean`
    and `std` are AST's AudioSet statistics converted to this recipe by comparing both recipes on a few recordings of
    speech, music, nature and silence; `mbt stats` measures those of a data set.

    Args:
        sample_rate: samples of the waveform a second.
        num_mels: mel bins (paper: 128).
        window_seconds: length of the Hamming window (paper: 0.025).
        hop_seconds: from one time step to the next (paper: 0.010); a whole number of samples.
        mean: mean of the log-mel over a data set; null: as `mbt stats` measured it on the manifest.
        std: standard deviation of the log-mel over a data set; null likewise.
        offset: added to the mel power before the natural logarithm; keeps silence finite, above 0.
        min_hz: lower end of the lowest filter.
        max_hz: upper end of the highest filter; None: half of `sample_rate`.

    Raises:
        UserError: a setting out of its range, or so many filters that no reasonable FFT fills them all.
    """

    # A longer FFT of the same window only interpolates its spectrum; beyond this it is memory for nothing.
    MAX_PADDING = 8

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        num_mels: int = 128,
        window_seconds: float = 0.025,
        hop_seconds: float = 0.010,
        mean: float | None = -1.7,
        std: float | None = 3.8,
        offset: float = 1e-6,
        min_hz: float = 20.0,
        max_hz: float | None = None,
    ) -> None:
        super().__init__(sample_rate, num_mels, window_seconds, hop_seconds, mean, std)
        max_hz = sample_rate / 2 if max_hz is None else max_hz
        if num_mels < 1:
            raise UserError(f"num_mels is {num_mels}; it must be 1 or more. The paper's is 128.")
        if not offset > 0:
            raise UserError(f"offset is {offset}; it must be above 0, or the log of silence is minus infinity.")
        if not 0 <= min_hz < max_hz <= sample_rate / 2:
            raise UserError(
                f"min_hz {min_hz:g} and max_hz {max_hz:g} must hold 0 <= min_hz < max_hz <= {sample_rate / 2:g}, "
                f"half of sample_rate {sample_rate}."
            )
        self.offset = offset
        self.register_buffer("window", torch.hamming_window(self.window_samples), persistent=False)
        self.register_buffer("filters", self._fill_filters(min_hz, max_hz), persistent=False)
        self.fft_samples = 2 * (self.filters.shape[0] - 1)

    def _fill_filters(self, min_hz: float, max_hz: float) -> Tensor:
        """The (frequency, mel) filters of the shortest FFT, a power of two, that leaves no filter empty."""
        shortest = _next_power_of_two(self.window_samples)
        fft_samples = shortest
        while fft_samples <= self.MAX_PADDING * shortest:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torchaudio warns about empty filters, which are looked for here
                filters = torchaudio.functional.melscale_fbanks(
                    fft_samples // 2 + 1, min_hz, max_hz, self.num_mels, self.sample_rate
                )
            if num_empty_filters(filters.T) == 0:
                return filters
            fft_samples *= 2
        raise UserError(
            f"num_mels is {self.num_mels} between {min_hz:g} and {max_hz:g} Hz: even an FFT of {fft_samples // 2} "
            f"points leaves filters empty. Use fewer mel bins (the paper's is 128), a longer window_seconds, or a "
            "wider range from min_hz to max_hz."
        )

    @property
    def min_samples(self) -> int:
        """The fewest samples that a waveform may have: mirroring its ends needs half an FFT of audio."""
        return self.fft_samples // 2 + 1

    def _log_mel(self, waveform: Tensor, num_steps: int) -> Tensor:
        power = torchaudio.functional.spectrogram(
            waveform,
            pad=0,
            window=self.window,
            n_fft=self.fft_samples,
            hop_length=self.hop_samples,
            win_length=self.window_samples,
            power=2.0,
            normalized=False,
        )  # (B, frequency, time + 1)
        mel = power[..., :num_steps].transpose(1, 2) @ self.filters  # (B, time, mel)
        return torch.log(mel + self.offset)


class KaldiFbank(MelTransform):
    """AST's log-mel: Kaldi's filter bank features, equal to `torchaudio.compliance.kaldi.fbank` of every clip.

    AST's setting (YuanGongND/ast, also CAV-MAE): the waveform's mean removed, then htk_compat=True, use_energy=False,
    window_type="hanning", dither=0, frame_shift=10, and Kaldi's defaults for the rest (25 ms window, its mean removed,
    pre-emphasis 0.97, 512-point FFT at 16 kHz, 20 Hz to half the sample rate, floor at float32's epsilon). Kaldi gives
    only time steps whose window lies wholly inside the audio, 798 for 8 s; as in AST, the rest is padded with zeros
    before the standardisation.

    With 128 bins at 16 kHz one of the filters is empty (its mel bin is constant) and three more are nearly so: a
    property of AST's own features, kept because of its weights. `num_empty_filters(bank.filters)` counts them.

    Args:
        sample_rate: samples of the waveform a second.
        num_mels: mel bins, 4 or more (AST: 128).
        mean: AST's mean over AudioSet; null: as `mbt stats` measured it on the manifest.
        std: AST divides by twice its standard deviation over AudioSet, 4.5689974, and so does this default; null: the
            standard deviation as `mbt stats` measured it, not doubled.

    Raises:
        UserError: a setting out of its range.
    """

    WINDOW_SECONDS = 0.025
    HOP_SECONDS = 0.010
    MIN_HZ = 20.0
    PREEMPHASIS = 0.97

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        num_mels: int = 128,
        mean: float | None = -4.2677393,
        std: float | None = 2 * 4.5689974,
    ) -> None:
        super().__init__(sample_rate, num_mels, self.WINDOW_SECONDS, self.HOP_SECONDS, mean, std)
        if num_mels < 4:
            raise UserError(f"num_mels is {num_mels}; Kaldi's filter bank needs 4 or more. AST's is 128.")
        self.fft_samples = _next_power_of_two(self.window_samples)
        filters, _ = kaldi.get_mel_banks(
            num_mels,
            self.fft_samples,
            float(sample_rate),
            low_freq=self.MIN_HZ,
            high_freq=0.0,  # Kaldi: counted from half of the sample rate
            vtln_low=100.0,
            vtln_high=-500.0,
            vtln_warp_factor=1.0,
        )
        window = torch.hann_window(self.window_samples, periodic=False)
        self.register_buffer("window", window, persistent=False)
        # Kaldi's bank ends below the FFT's last frequency, which gets a column of zeros.
        self.register_buffer("filters", F.pad(filters, (0, 1)), persistent=False)  # (mel, frequency)

    def steps_of_audio(self, num_samples: int) -> int:
        """The time steps whose window lies wholly inside the audio.

        Args:
            num_samples: length of the waveform.
        """
        return 1 + (num_samples - self.window_samples) // self.hop_samples

    def _log_mel(self, waveform: Tensor, num_steps: int) -> Tensor:
        waveform = waveform - waveform.mean(dim=1, keepdim=True)
        windows = waveform.unfold(1, self.window_samples, self.hop_samples)  # (B, time, window_samples)
        windows = windows - windows.mean(dim=2, keepdim=True)
        # The sample before the first one is the first itself, as in Kaldi.
        windows = windows - self.PREEMPHASIS * F.pad(windows, (1, 0), mode="replicate")[..., :-1]
        power = torch.fft.rfft(windows * self.window, n=self.fft_samples).abs().square()
        log_mel = (power @ self.filters.T).clamp_min(torch.finfo(torch.float32).eps).log()
        return F.pad(log_mel, (0, 0, 0, num_steps - log_mel.shape[1]))  # negative padding cuts


def num_empty_filters(filters: Tensor) -> int:
    """How many filters cover no frequency of the FFT, so that their mel bin is constant.

    Args:
        filters: (mel, frequency) weights, 0 or more.
    """
    return int((filters.amax(dim=1) <= 0).sum())


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
