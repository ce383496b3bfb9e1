"""Two label spaces meet: what differs is named, what may pass is said, and every command compares before it works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import cli
from image_data.label_meeting import LabelHolder, check_same_labels, check_several_classes
from image_data.labels import ClassLabels, ContinuousLabels, labels_differ
from runtime.errors import UserError

DEGREES = ContinuousLabels(0.0, 90.0, "degrees")
Typed = Callable[..., tuple[int, str]]


def numbered(count: int) -> ClassLabels:
    return ClassLabels(tuple(str(index) for index in range(count)))


def met(mine, theirs, asked=None, exact=False) -> str | None:
    return check_same_labels(
        LabelHolder("data", "--data d", mine), LabelHolder("teacher", "--teacher t", theirs), asked, exact=exact
    )


@pytest.mark.parametrize(
    ("mine", "theirs", "text"),
    [
        (ClassLabels(("0", "1", "10", "2")), ClassLabels(("0", "1", "2", "10")), "label 2 is '10' here and '2' there"),
        (ClassLabels(("a", "b")), ClassLabels(("a", "b", "c")), "label 2 is missing here and 'c' there"),
        (ClassLabels(("a", "c")), ClassLabels(("b", "a", "c")), "label 0 is 'a' here and 'b' there"),
        (ClassLabels(("cat", "dog")), ClassLabels(("Cat", "dog")), "label 0 is 'cat' here and 'Cat' there"),
        (ClassLabels(("a", "b")), DEGREES, "2 classes here and a value there"),
        (ContinuousLabels(0, 1, dimension=2), ContinuousLabels(0, 1), "2 values here and a value there"),
        (DEGREES, ContinuousLabels(0.0, 90.0, "radians"), "'degrees' here and in 'radians' there"),
        (DEGREES, ContinuousLabels(0.0, 60.0, "degrees"), "0 to 90 degrees here and from 0 to 60 degrees there"),
    ],
)
def test_the_first_difference_is_named(mine, theirs, text: str) -> None:
    assert text in str(labels_differ(mine, theirs))
    assert labels_differ(mine, mine) is None
    assert labels_differ(theirs, theirs) is None


def test_names_that_look_alike_are_alike() -> None:
    assert labels_differ(ClassLabels(("café", "thé")), ClassLabels(("café", "thé"))) is None


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "dog"),
        ("00", "01"),
        ("c1", "c2", "c10"),
        ("1-hot", "2-cold", "cold"),
        tuple(f"k{index}" for index in range(9)),
    ],
)
def test_plain_numbers_are_matched_by_place_and_said(names: tuple[str, ...]) -> None:
    said = met(ClassLabels(names), numbered(len(names)))
    assert said is not None
    assert "matched by place" in said
    assert "--class-names" in said
    assert (",".join(names) in said) == (len(names) < 9)
    other = met(numbered(len(names)), ClassLabels(names))
    assert other is not None
    assert "class_names in the data's dataset.json" in other


@pytest.mark.parametrize(
    "names",
    [
        ("0", "1", "10", "2"),  # folders in the order of text
        ("1", "2", "3", "4"),  # from one on
        ("3", "5", "7", "9"),
        ("c0", "c1", "c10", "c2"),
        ("00", "01", "10", "02"),
    ],
)
def test_other_numbers_are_other_names(names: tuple[str, ...]) -> None:
    for mine, theirs in ((ClassLabels(names), numbered(4)), (numbered(4), ClassLabels(names))):
        with pytest.raises(UserError, match=r"label \d is .* here and .* there.*--label-map FILE.*--class-names"):
            met(mine, theirs)


def test_the_same_names_in_another_order_are_refused() -> None:
    with pytest.raises(UserError, match=r"label 0 is 'cat' here and 'dog' there \(the same names in another order"):
        met(ClassLabels(("cat", "dog")), ClassLabels(("dog", "cat")))
    with pytest.raises(UserError, match="'dog'"):
        met(ClassLabels(("cat", "dog")), ClassLabels(("cat", "bird")))
    with pytest.raises(UserError, match="label 0 is 'cat'"):
        met(ClassLabels(("cat", "dog")), numbered(2), exact=True)


def test_one_class_may_have_any_name() -> None:
    said = met(ClassLabels(("faces",)), ClassLabels(("all",)))
    assert said is not None
    assert "called all in --teacher t and faces in --data d; they are matched by place" in said


def test_values_pass_inside_both_ranges_alone() -> None:
    wide, plain = ContinuousLabels(0.0, 100.0, "degrees"), ContinuousLabels(0.0, 90.0)
    assert met(DEGREES, DEGREES) is None
    assert "taken as the same values" in str(met(DEGREES, wide, np.array([0.0, 90.0])))
    assert "no stated unit" in str(met(DEGREES, plain))
    with pytest.raises(UserError, match=r"labels of --data d run from 0 to 100, and --teacher t knows 0 to 90"):
        met(wide, DEGREES, np.array([0.0, 100.0]))
    with pytest.raises(UserError, match="--label-unit"):
        met(DEGREES, ContinuousLabels(0.0, 90.0, "radians"))
    with pytest.raises(UserError, match="2 classes here and a value there"):
        met(numbered(2), DEGREES)
    with pytest.raises(UserError, match="from 0 to 90"):
        met(DEGREES, wide, exact=True)


def test_one_class_cannot_be_told_apart() -> None:
    check_several_classes(LabelHolder("data", "--data d", numbered(2)), "train-classifier")
    check_several_classes(LabelHolder("data", "--data d", DEGREES), "train-classifier")
    with pytest.raises(UserError, match=r"train-classifier .* --data d has one only \(all\)"):
        check_several_classes(LabelHolder("data", "--data d", ClassLabels(("all",))), "train-classifier")


@pytest.fixture
def typed(capsys: pytest.CaptureFixture, tmp_path: Path) -> Typed:
    """(exit code, stderr) of `cli.py TEXT` in this process; made/ and out/ stand for folders of the test."""

    def run(text: str) -> tuple[int, str]:
        capsys.readouterr()
        words = [
            word.replace("made/", f"{tmp_path}/made/").replace("out/", f"{tmp_path}/out/") for word in text.split()
        ]
        code = cli.main([*words, "--workspace", str(tmp_path / "w")])
        return code, capsys.readouterr().err

    return run


def pictures(folder: Path, names: list[str], count: int = 12, seed: int = 3) -> None:
    """made/NAME: class folders of grey PNGs; made/NAME.h5: the same images, labelled by place."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = np.clip(rng.normal(40 + 60 * index, 20, (16, 16)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / name / f"{number}.png")
            images.append(image[None])
            labels.append(index)
    with h5py.File(folder.with_suffix(".h5"), "w") as file:
        file["images"], file["labels"] = np.stack(images), np.array(labels)


FIT = "--extractor-steps 2 --ratio-steps 2 --fakes-at-least 20 --extractor-width 4"
SAMPLE = "--filter none --nfake-per-class 6 --workers 1"


def test_plain_numbers_meet_names_in_every_command(typed: Typed, tmp_path: Path) -> None:
    pictures(tmp_path / "made/pets", ["cat", "dog"])
    pictures(tmp_path / "made/mine", ["cat", "dog"], seed=4)  # images that the teacher does not consist of
    assert typed("import-teacher --arch images --checkpoint made/pets.h5 --out out/t")[0] == 0
    assert typed("train-classifier --data made/mine --network resnet8 --width 0.25 --steps 3 --out out/p")[0] == 0
    for text in (
        f"fit-filter --data made/pets --teacher out/t {FIT} --out out/r",
        f"sample --teacher out/t --predictor out/p {SAMPLE} --out out/f",
        "evaluate --data made/pets --fakes out/f --judge-steps 2 --rho 1 --out out/e",
        "distill --data made/mine --fakes out/f --predictor out/p --steps 2 --network resnet8 --rho 1 --out out/s",
    ):
        code, said = typed(text)
        assert code == 0, said
        assert "called 0, 1 in --" in said or "called 0, 1 in the teacher" in said, text
        assert "cat, dog in" in said, text
        assert "matched by place" in said, text
    assert json.loads((tmp_path / "out/s/card.json").read_text())["label_space"]["names"] == ["cat", "dog"]
    renamed = "import-teacher --arch images --checkpoint made/pets.h5 --class-names cat,dog --out out/named"
    assert typed(renamed)[0] == 0
    code, said = typed(f"sample --teacher out/named --predictor out/p {SAMPLE} --out out/f")
    assert code == 2, said
    assert "matched by place" not in typed(f"sample --teacher out/named --predictor out/p {SAMPLE} --out out/f2")[1]


def test_another_order_is_refused_by_every_command_before_it_works(typed: Typed, tmp_path: Path) -> None:
    pictures(tmp_path / "made/pets", ["cat", "dog", "hen"])
    names = "--class-names dog,cat,hen"
    assert typed(f"import-teacher --arch images --checkpoint made/pets.h5 {names} --out out/t")[0] == 0
    assert typed("train-classifier --data made/pets --network resnet8 --width 0.25 --steps 3 --out out/p")[0] == 0
    assert typed(f"sample --teacher out/t --predictor none {SAMPLE} --out out/f")[0] == 0
    (tmp_path / "made/pets.json").write_text(json.dumps({"class_names": ["dog", "cat", "hen"]}))
    assert typed("train-classifier --data made/pets.h5 --network resnet8 --steps 3 --out out/q")[0] == 0
    (tmp_path / "made/pets.json").write_text(json.dumps({"class_names": ["cat", "dog", "hen"]}))
    train = "--steps 2 --network resnet8 --rho 1"
    for text in (
        f"fit-filter --data made/pets --teacher out/t {FIT} --out out/no",
        f"sample --teacher out/t --predictor out/p {SAMPLE} --out out/no",
        "score out/f --predictor out/p",
        "score out/f --nearest --data made/pets",
        "evaluate --data made/pets --fakes out/f --judge-steps 2 --out out/no",
        "evaluate --data made/pets --teacher out/t --judge-steps 2 --out out/no",
        f"distill --data made/pets --fakes out/f --method none {train} --out out/no",
        f"distill --data made/pets.h5 --train-on real --predictor out/q {train} --out out/no",
        "search-rho --data made/pets --fakes out/f --steps 2 --networks resnet8 --rhos 1 --seeds 0 --out out/no",
        "train-classifier --data made/pets --network resnet8 --steps 2 --init-from out/q --out out/no",
    ):
        code, said = typed(text)
        assert code == 2, text
        assert "label 0 is '" in said, (text, said)
        assert "in another order" in said, (text, said)
        assert not (tmp_path / "out/no").exists() or not list((tmp_path / "out/no").glob("[a-z]*")), text


@pytest.mark.xdist_group("workspace")
def test_a_student_generator_meets_real_images(workspace, capsys: pytest.CaptureFixture) -> None:
    assert workspace.type("train-student", "--real --data rotated-digits") == 2
    assert "10 classes here and a value there" in capsys.readouterr().err
