"""Several configurations as one: which value wins, and what becomes of a class's arguments."""

import pytest

from mbt_lightning.config.merge import Layer, merge, undotted
from mbt_lightning.config.yaml_files import as_text, parsed


def merged(*contents: dict) -> dict:
    return merge([Layer(f"file {number}", content) for number, content in enumerate(contents)])


def fusion(*values) -> dict | str:
    return merged(*({"model": {"fusion": value}} for value in values))["model"]["fusion"]


BOTTLENECK = {"class_path": "Bottleneck", "init_args": {"num_bottlenecks": 4, "update": "symmetric"}}


def test_the_last_value_wins_key_by_key() -> None:
    one = {"model": {"size": "b", "patches": {"rgb": [1, 16, 16], "spectrogram": [16, 16]}}, "x": [1, 2]}
    other = {"model": {"size": {"dim": 8}, "patches": {"rgb": [2, 16, 16]}}, "x": [3], "y": None}
    assert merged(one, other) == {
        "model": {"size": {"dim": 8}, "patches": {"rgb": [2, 16, 16], "spectrogram": [16, 16]}},
        "x": [3],
        "y": None,
    }
    assert one["model"]["size"] == "b", "what is merged stays as it was"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((BOTTLENECK, "Bottleneck"), BOTTLENECK),
        ((BOTTLENECK, {"init_args": {"num_bottlenecks": 9}}), {"num_bottlenecks": 9, "update": "symmetric"}),
        ((BOTTLENECK, {"num_bottlenecks": 9}), {"num_bottlenecks": 9, "update": "symmetric"}),
        (("Bottleneck", {"num_bottlenecks": 9}), {"num_bottlenecks": 9}),
        (("Bottleneck", {"init_args": {"num_bottlenecks": 9}}), {"num_bottlenecks": 9}),
        ((BOTTLENECK, "CrossAttention"), {}),
        ((BOTTLENECK, "no.such.Fusion"), {}),
        ((BOTTLENECK, "TrainOnlyBottleneck"), {"num_bottlenecks": 4, "update": "symmetric"}),
        ((BOTTLENECK, {"class_path": "mbt_lightning.Bottleneck", "init_args": {"num_bottlenecks": 2}}),
         {"num_bottlenecks": 2, "update": "symmetric"}),
    ],
)  # fmt: skip
def test_a_class_and_its_arguments(values, expected) -> None:
    chosen = fusion(*values)
    assert chosen.get("init_args", {}) == expected.get("init_args", expected)
    named = [v if isinstance(v, str) else v.get("class_path") for v in values]
    assert chosen["class_path"] == [name for name in named if name][-1]


def test_another_class_keeps_the_arguments_that_it_takes() -> None:
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.1}}
    adam = merged({"optimizer": sgd}, {"optimizer": "AdamW"})["optimizer"]
    assert adam == {"class_path": "AdamW", "init_args": {"lr": 0.5, "weight_decay": 0.1}}


def test_inputs_merge_by_modality() -> None:
    base = {"rgb": {"class_path": "Rgb", "init_args": {"num_frames": 8}}, "spectrogram": {"class_path": "Spectrogram"}}
    inputs = merged({"data": {"inputs": base}}, undotted({"data.inputs.rgb.num_frames": 16}))["data"]["inputs"]
    assert inputs == base | {"rgb": {"class_path": "Rgb", "init_args": {"num_frames": 16}}}
    nested = {"spectrogram": {"init_args": {"transform": {"class_path": "LogMel", "init_args": {"num_mels": 64}}}}}
    option = undotted({"data.inputs.spectrogram.transform.num_mels": 32})
    found = merged({"data": {"inputs": base}}, {"data": {"inputs": nested}}, option)["data"]["inputs"]["spectrogram"]
    assert found["class_path"] == "Spectrogram"
    assert found["init_args"]["transform"] == {"class_path": "LogMel", "init_args": {"num_mels": 32}}


def test_dotted_names_nest_and_a_class_comes_before_its_arguments() -> None:
    content = {"model.fusion.init_args.num_bottlenecks": 36, "model": {"fusion": "Bottleneck"}, "data.cache": True}
    chosen = {"class_path": "Bottleneck", "init_args": {"num_bottlenecks": 36}}
    assert undotted(content) == {"model": {"fusion": chosen}, "data": {"cache": True}}


@pytest.mark.parametrize("strategy", ["JointSelfAttention", "mbt_lightning.CrossAttention"])
def test_only_a_point_may_hold_an_argument_of_another_strategy(strategy: str, capsys) -> None:
    content = undotted({"model.fusion": strategy, "model.fusion.init_args.num_bottlenecks": 36})
    point = merge([Layer("values.json", content, is_point=True)])
    assert point["model"]["fusion"] == {"class_path": strategy, "init_args": {}}
    name = strategy.rpartition(".")[2]
    assert f"model.fusion.init_args.num_bottlenecks has no effect on {name}" in capsys.readouterr().out
    assert merged(content)["model"]["fusion"]["init_args"] == {"num_bottlenecks": 36}


def test_a_misspelt_argument_of_a_point_stays() -> None:
    content = undotted({"model.fusion": "CrossAttention", "model.fusion.init_args.num_botlenecks": 36})
    point = merge([Layer("values.json", content, is_point=True)])
    assert point["model"]["fusion"]["init_args"] == {"num_botlenecks": 36}


def test_values_are_read_and_written_as_the_parser_reads_them() -> None:
    content = parsed("{a: 1e-3, b: '1e-3', c: 2026-01-02, d: .inf, e: 0x10, f: on, g: [null, 1.5e3]}", "a text")
    assert content == {"a": 0.001, "b": "1e-3", "c": "2026-01-02", "d": float("inf"), "e": 16, "f": True,
                       "g": [None, 1500.0]}  # fmt: skip
    assert parsed(as_text(content), "a text") == content
