"""Log-mel: both recipes against torchaudio's own, one clip at a time."""

import pytest
import torch
import torchaudio
from torchaudio.compliance import kaldi

from mbt_lightning.data.spectrogram import KaldiFbank, LogMel, MelTransform, num_empty_filters
from mbt_lightning.errors import UserError

RECIPES = [LogMel, KaldiFbank]


def sound(clips: int = 3, seconds: float = 1.0, sample_rate: int = 16000, seed: int = 0) -> torch.Tensor:
    """Noise whose power falls with frequency, as most sounds' does, with an offset to be taken out."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(clips, round(seconds * sample_rate), generator=generator)
    spectrum = torch.fft.rfft(white)
    pink = torch.fft.irfft(spectrum / torch.arange(1, spectrum.shape[1] + 1).sqrt(), n=white.shape[1])
    return 0.07 * pink / pink.std() + 0.01


@pytest.mark.parametrize("recipe", RECIPES)
class TestContract:
    @pytest.mark.parametrize("seconds", [8.0, 2.56, 0.1, 0.305, 1.0001, 1.2345])
    def test_rows_are_the_rounded_quotient(self, recipe: type[MelTransform], seconds: float) -> None:
        transform = recipe()
        rows = transform.num_frames(seconds)
        assert rows == pytest.approx(seconds * 100, abs=0.5 + 1e-6)
        assert transform(sound(2, seconds)).shape == (2, 1, rows, transform.num_mels)

    def test_eight_seconds_are_800_rows(self, recipe: type[MelTransform]) -> None:
        assert recipe().num_frames(8) == 800

    def test_standardises(self, recipe: type[MelTransform]) -> None:
        waveform = sound()
        plain, scaled = recipe(mean=0.0, std=1.0), recipe(mean=-3.0, std=2.0)
        torch.testing.assert_close(scaled(waveform), (plain(waveform) + 3.0) / 2.0)
        assert torch.equal(plain(waveform)[:, 0], scaled.log_mel(waveform))
        assert (scaled.mean, scaled.std, scaled.num_mels, scaled.sample_rate) == (-3.0, 2.0, 128, 16000)

    def test_defaults_suit_a_typical_sound(self, recipe: type[MelTransform]) -> None:
        spectrogram = recipe()(sound())
        assert spectrogram.mean().abs() < 1
        assert spectrogram.abs().max() < 5

    def test_silence_is_finite(self, recipe: type[MelTransform]) -> None:
        spectrogram = recipe()(torch.zeros(1, 16000))
        assert spectrogram.isfinite().all()
        assert spectrogram.abs().max() < 4

    def test_clips_do_not_touch(self, recipe: type[MelTransform]) -> None:
        transform, waveform = recipe(), sound()
        together = transform(waveform)
        for clip in range(3):
            torch.testing.assert_close(together[clip : clip + 1], transform(waveform[clip : clip + 1]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_autocast_changes_nothing(self, recipe: type[MelTransform], dtype: torch.dtype) -> None:
        transform, waveform = recipe(), sound()
        expected = transform(waveform)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = transform(waveform.to(dtype))
        assert actual.dtype == torch.float32
        assert torch.equal(actual, expected)

    @pytest.mark.gpu
    def test_a_gpu_gives_the_same(self, recipe: type[MelTransform]) -> None:
        transform, waveform = recipe(), sound()
        expected = transform(waveform)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            actual = transform.cuda()(waveform.cuda())
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=5e-3)  # TF32 may be on

    def test_input_is_left_alone(self, recipe: type[MelTransform]) -> None:
        waveform = sound()
        recipe()(waveform)
        assert torch.equal(waveform, sound())

    def test_checkpoints_hold_nothing_of_it(self, recipe: type[MelTransform]) -> None:
        transform = recipe()
        assert transform.state_dict() == {}
        assert not list(transform.parameters())
        assert {buffer.device.type for buffer in transform.to("meta").buffers()} == {"meta"}  # yet it moves

    def test_rows_are_time_and_columns_mel(self, recipe: type[MelTransform]) -> None:
        time = torch.arange(16000) / 16000
        tone = torch.where(time < 0.5, torch.sin(2 * torch.pi * 300 * time), torch.sin(2 * torch.pi * 3000 * time))
        loudest = recipe()(tone[None])[0, 0].argmax(dim=1)
        assert loudest[5:45].unique().numel() == 1 and loudest[55:95].unique().numel() == 1
        assert loudest[25] < loudest[75]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"sample_rate": 0}, "sample_rate is 0"),
            ({"sample_rate": 22050}, r"220\.5 samples .* whole number"),
            ({"num_mels": 0}, "num_mels is 0"),
            ({"std": 0.0}, r"std is 0\.0; it must be above 0"),
        ],
    )
    def test_refuses(self, recipe: type[MelTransform], settings: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            recipe(**settings)

    def test_refuses_a_wrong_waveform(self, recipe: type[MelTransform]) -> None:
        with pytest.raises(UserError, match=r"shape \(16000,\); it must be \(clips, samples\)"):
            recipe()(torch.zeros(16000))
        with pytest.raises(UserError, match=r"holds 100 samples a clip; .* or more"):
            recipe()(torch.zeros(1, 100))

    def test_shortest_waveform(self, recipe: type[MelTransform]) -> None:
        transform = recipe()
        assert transform(sound()[:, : transform.min_samples]).isfinite().all()


class TestLogMel:
    @pytest.mark.parametrize(("num_mels", "fft_samples"), [(64, 512), (128, 1024)])
    def test_equals_torchaudio(self, num_mels: int, fft_samples: int) -> None:
        waveform = sound()
        reference = torchaudio.transforms.MelSpectrogram(
            sample_rate=16000,
            n_fft=fft_samples,
            win_length=400,
            hop_length=160,
            f_min=20.0,
            n_mels=num_mels,
            window_fn=torch.hamming_window,
        )
        for clip, log_mel in zip(waveform, LogMel(num_mels=num_mels).log_mel(waveform), strict=True):
            expected = torch.log(reference(clip) + 1e-6).T
            torch.testing.assert_close(log_mel, expected[:-1], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("num_mels", [1, 40, 64, 80, 128, 256])
    @pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
    def test_no_filter_is_empty(self, num_mels: int, sample_rate: int) -> None:
        transform = LogMel(sample_rate=sample_rate, num_mels=num_mels)
        assert num_empty_filters(transform.filters.T) == 0
        assert transform.fft_samples >= transform.window_samples
        # Nor does one only graze a frequency, which would make it far quieter than its neighbours.
        assert transform.filters.amax(dim=0).min() > 0.1

    @pytest.mark.filterwarnings("ignore:At least one mel filterbank")
    def test_a_shorter_fft_would_leave_filters_empty(self) -> None:
        transform = LogMel()
        half = torchaudio.functional.melscale_fbanks(transform.fft_samples // 4 + 1, 20.0, 8000.0, 128, 16000)
        assert num_empty_filters(half.T) > 0

    def test_every_column_tells_noises_apart(self) -> None:
        assert (LogMel()(sound())[:, 0].std(dim=1) > 0.05).all()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_mels": 2000}, "num_mels is 2000 .* 4096 points leaves filters empty. Use fewer mel bins"),
            ({"offset": 0.0}, "offset is 0.0; it must be above 0"),
            ({"min_hz": 9000.0}, "min_hz 9000 and max_hz 8000 must hold"),
            ({"max_hz": 8001.0}, "<= 8000, half of sample_rate 16000"),
            ({"min_hz": -1.0}, "min_hz -1"),
            ({"window_seconds": 0.0}, "window_seconds 0.0 is 0 samples"),
            ({"hop_seconds": 0.0}, "hop_seconds 0.0 is 0 samples"),
        ],
    )
    def test_refuses(self, settings: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            LogMel(**settings)


class TestKaldiFbank:
    @pytest.mark.parametrize(("sample_rate", "num_mels"), [(16000, 128), (16000, 64), (44100, 128)])
    @pytest.mark.parametrize("loudness", [1.0, 1e-4])
    def test_equals_kaldi(self, sample_rate: int, num_mels: int, loudness: float) -> None:
        waveform = loudness * sound(sample_rate=sample_rate)
        transform = KaldiFbank(sample_rate=sample_rate, num_mels=num_mels)
        for clip, log_mel in zip(waveform, transform.log_mel(waveform), strict=True):
            expected = kaldi.fbank(
                (clip - clip.mean()).unsqueeze(0),
                htk_compat=True,
                sample_frequency=sample_rate,
                use_energy=False,
                window_type="hanning",
                num_mel_bins=num_mels,
                dither=0.0,
                frame_shift=10,
            )
            assert expected.shape == (98, num_mels)
            torch.testing.assert_close(log_mel[:98], expected, rtol=0, atol=5e-5)
            assert (log_mel[98:] == 0).all()  # AST fills up with zeros, then standardises

    def test_standardises_as_ast(self) -> None:
        waveform = sound()
        transform = KaldiFbank()
        expected = (transform.log_mel(waveform) + 4.2677393) / (4.5689974 * 2)
        torch.testing.assert_close(transform(waveform)[:, 0], expected)

    def test_has_the_empty_filter_of_ast(self) -> None:
        transform = KaldiFbank()
        assert num_empty_filters(transform.filters) == 1
        empty = transform.filters.amax(dim=1).argmin()
        assert (transform(sound())[:, 0, :98, empty].std(dim=1) == 0).all()

    def test_refuses_too_few_bins(self) -> None:
        with pytest.raises(UserError, match="num_mels is 3; Kaldi's filter bank needs 4 or more"):
            KaldiFbank(num_mels=3)
