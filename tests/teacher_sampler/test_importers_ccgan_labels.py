"""--label-network: x2y files of every layout against a plain rendering, and what a trained pair tells of y2h's ReLU."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cli
from benchmarks.plain_ccgan import PlainLabelEmbedding, PlainSNGAN
from runtime.errors import UserError
from teacher_sampler.importers.ccgan_labels import ROUND_TRIP_LIMIT, read_label_network
from teacher_sampler.importers.registry import IMPORTERS, ImportedTeacher, ImportRequest

DIM = 32
PLACES = {0: (3, 4, 5, 6), 1: (4, 5, 6, 7), 2: (4, 6, 7, 8)}
LAYOUTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
LOW, HIGH = -10.0, 30.0

State = dict[str, torch.Tensor]


def random_x2y(
    layout: int = 18, pools: int = 0, channels: int = 3, widths: tuple[int, ...] = (4, 4, 6, 8, 10)
) -> State:
    """A state under the original program's names; no norm is at rest."""
    state: State = {}
    widths = (4, 4, 6, 8, 10)

    def norm(name: str, size: int) -> None:
        state[f"{name}.weight"], state[f"{name}.running_var"] = torch.rand(size) + 0.5, torch.rand(size) + 0.5
        state[f"{name}.bias"], state[f"{name}.running_mean"] = torch.randn(size) * 0.2, torch.randn(size) * 0.2
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def weight(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(shape) * (2 / torch.Size(shape[1:]).numel()) ** 0.5

    weight("main.0", widths[0], channels, 3, 3)
    norm("main.1", widths[0])
    for stage, place in enumerate(PLACES[pools]):
        before, after = widths[stage], widths[stage + 1]
        weight(f"main.{place}.0.shortcut.0", after, before, 1, 1)
        norm(f"main.{place}.0.shortcut.1", after)
        for index in range(LAYOUTS[layout][stage]):
            weight(f"main.{place}.{index}.conv1", after, after if index else before, 3, 3)
            weight(f"main.{place}.{index}.conv2", after, after, 3, 3)
            norm(f"main.{place}.{index}.bn1", after)
            norm(f"main.{place}.{index}.bn2", after)
    for name, inputs, outputs in (("x2h_res.0", widths[-1], 12), ("x2h_res.3", 12, DIM), ("h2y.0", DIM, 1)):
        weight(name, outputs, inputs)
        state[f"{name}.bias"] = torch.rand(outputs) * 0.2
    norm("x2h_res.1", 12)
    norm("x2h_res.4", DIM)
    return state


def plain_x2y(state: State, x: torch.Tensor, pools: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same network, plainly."""

    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel = state[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{kind}"] for kind in kinds))

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.relu(norm("main.1", conv("main.0", x)))
    for stage, place in enumerate(PLACES[pools]):
        x = F.max_pool2d(x, 2) if stage < pools else x
        count = len({name.split(".")[2] for name in state if name.startswith(f"main.{place}.")})
        for index in range(count):
            block, stride = f"main.{place}.{index}", 1 if index else 2
            inner = F.relu(norm(f"{block}.bn1", conv(f"{block}.conv1", x, stride)))
            around = x if index else norm(f"{block}.shortcut.1", conv(f"{block}.shortcut.0", x, 2))
            x = F.relu(norm(f"{block}.bn2", conv(f"{block}.conv2", inner)) + around)
    h = F.relu(norm("x2h_res.1", linear("x2h_res.0", F.adaptive_avg_pool2d(x, 1).flatten(1))))
    h = F.relu(norm("x2h_res.4", linear("x2h_res.3", h)))
    return h, F.relu(linear("h2y.0", h))


def written(path: Path, state: State, entry: str = "net_state_dict") -> Path:
    torch.save({entry: {f"module.{name}": value for name, value in state.items()}}, path)
    return path


@pytest.mark.parametrize(("layout", "pools", "channels"), [(18, 0, 1), (34, 0, 3), (34, 1, 3), (18, 2, 3)])
def test_every_layout_equals_the_plain_rendering(tmp_path, layout, pools, channels):
    torch.manual_seed(0)
    state = random_x2y(layout, pools, channels)
    network = read_label_network(written(tmp_path / "x2y.pth", state))
    images = torch.rand(3, channels, 64 << pools, 64 << pools) * 2 - 1
    with torch.inference_mode():
        features, labels = network(images)
        expected = plain_x2y(state, images, pools)
    torch.testing.assert_close(features, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(labels, expected[1], rtol=1e-4, atol=1e-5)
    assert expected[0].std(dim=0).max() > 1e-3  # the images do not all look the same
    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())


def test_files_of_old_torch_have_no_batch_counts(tmp_path):
    state = {name: value for name, value in random_x2y().items() if not name.endswith("num_batches_tracked")}
    network = read_label_network(written(tmp_path / "x2y.pth", state, "state_dict"))
    h = torch.rand(4, DIM)
    torch.testing.assert_close(network.to_label(h), F.relu(F.linear(h, state["h2y.0.weight"], state["h2y.0.bias"])))


def test_all_wrong_tensors_of_a_label_network_are_listed_at_once(tmp_path):
    state = random_x2y()
    del state["main.4.1.bn2.running_var"]
    state["main.5.0.conv1.weight"] = torch.zeros(3, 3)
    state["h2y.0.bias"] = torch.tensor([torch.nan])
    state |= {"main.3.2.num_batches_tracked": torch.tensor(1), "x2h_res.6.weight": torch.zeros(2)}
    with pytest.raises(UserError) as caught:
        read_label_network(written(tmp_path / "x2y.pth", state))
    message = str(caught.value)
    assert "main.4.1.bn2.running_var is missing" in message
    assert "main.5.0.conv1.weight has shape [3, 3] in place of [8, 6, 3, 3]" in message
    assert "h2y.0.bias holds numbers that are not finite" in message
    assert "main.3.2.num_batches_tracked is surplus" in message
    assert "x2h_res.6.weight is surplus" in message
    assert message.count(";") == 4


TOLD = ["main.0.weight", "main.1.running_mean", "main.3.0.shortcut.0.weight", "main.6.1.conv2.weight"]
TOLD += ["x2h_res.0.weight", "x2h_res.3.bias", "h2y.0.weight"]


@pytest.mark.parametrize("name", TOLD)
def test_one_wrong_tensor_of_a_label_network_is_named(tmp_path, name):
    state = random_x2y()
    for wrong in (
        {**state, name: torch.zeros(1, 1)},
        {other: value for other, value in state.items() if other != name},
    ):
        with pytest.raises(UserError) as caught:
            read_label_network(written(tmp_path / "x2y.pth", wrong))
        assert name in str(caught.value)
        assert ";" not in str(caught.value)


def test_other_files_are_no_label_network(tmp_path):
    embedding = written(tmp_path / "y2h.pth", PlainLabelEmbedding(DIM).state_dict())
    with pytest.raises(UserError, match=r"y2h.pth holds no network from images to labels"):
        read_label_network(embedding)
    bottlenecks = {**random_x2y(), "main.3.0.conv3.weight": torch.zeros(16, 4, 1, 1)}
    with pytest.raises(UserError, match="ResNet-50"):
        read_label_network(written(tmp_path / "x2y.pth", bottlenecks))


@cache
def trained_pair(final_relu: bool) -> tuple[State, State]:
    """y2h, of the form asked for, trained as the right inverse of a random x2y's last part, as the programs do."""
    torch.manual_seed(3)
    x2y = random_x2y()
    # As a trained h2y, it reaches all of [0, 1] over features of 0 and more (and DIM makes four a group of y2h).
    x2y["h2y.0.weight"], x2y["h2y.0.bias"] = torch.rand(1, DIM) * 0.3 - 0.05, torch.tensor([0.1])
    embedding = PlainLabelEmbedding(DIM, final_relu=final_relu)
    optimizer = torch.optim.Adam(embedding.parameters(), lr=3e-3)
    y = torch.linspace(0, 1, 101).unsqueeze(1)
    for _ in range(300):
        back = F.linear(embedding(y), x2y["h2y.0.weight"], x2y["h2y.0.bias"])  # without ReLU, so that none dies
        optimizer.zero_grad()
        F.mse_loss(back, y).backward()
        optimizer.step()
    return x2y, {name: value.detach().clone() for name, value in embedding.state_dict().items()}


def plain_error(x2y: State, y2h: State, final_relu: bool) -> float:
    embedding = PlainLabelEmbedding(DIM, final_relu=final_relu)
    embedding.load_state_dict(y2h)
    y = torch.linspace(0, 1, 101).unsqueeze(1)
    with torch.inference_mode():
        back = F.relu(F.linear(embedding(y), x2y["h2y.0.weight"], x2y["h2y.0.bias"]))
    return float((back - y).abs().mean())


def request_of(folder: Path, x2y: State, y2h: State, **more: object) -> ImportRequest:
    torch.manual_seed(4)
    generator: nn.Module = PlainSNGAN(z_dim=9, width=3, dim_embed=DIM)
    return ImportRequest(
        str(written(folder / "G.pth", generator.state_dict(), "netG_state_dict")),
        label_embedding=written(folder / "y2h.pth", y2h),
        label_network=written(folder / "x2y.pth", x2y),
        label_range=(LOW, HIGH),
        **more,
    )


def imported(*arguments: object, **more: object) -> ImportedTeacher:
    return IMPORTERS.get("ccgan-sngan")(request_of(*arguments, **more))


@pytest.mark.parametrize("final_relu", [True, False])
def test_a_trained_pair_tells_whether_the_embedding_ends_in_a_relu(tmp_path, final_relu):
    x2y, y2h = trained_pair(final_relu)
    right, wrong = plain_error(x2y, y2h, final_relu), plain_error(x2y, y2h, not final_relu)
    assert right < 0.03 < ROUND_TRIP_LIMIT < wrong
    teacher = imported(tmp_path, x2y, y2h)
    assert teacher.arguments["final_relu"] is final_relu
    assert teacher.network.embedding.final_relu is final_relu
    assert teacher.notes["label_round_trip_error"] == pytest.approx(right * (HIGH - LOW), rel=1e-3)
    assert imported(tmp_path, x2y, y2h, final_relu=final_relu).notes == teacher.notes
    with pytest.raises(UserError) as caught:
        imported(tmp_path, x2y, y2h, final_relu=not final_relu)
    flag = "--no-final-relu" if final_relu else "--final-relu"
    assert str(caught.value).startswith(f"{flag}: ")
    assert "is not the right inverse of" in str(caught.value)


def test_a_label_network_of_another_run_is_refused(tmp_path):
    x2y, y2h = trained_pair(True)
    stranger = {**x2y, "h2y.0.weight": x2y["h2y.0.weight"].flip(1)}
    best = min(plain_error(stranger, y2h, form) for form in (True, False))
    assert best > ROUND_TRIP_LIMIT
    for final_relu in (None, True, False):
        with pytest.raises(UserError, match="give the two files of one training run") as caught:
            imported(tmp_path, stranger, y2h, final_relu=final_relu)
        assert f"y2h.pth is not the right inverse of {tmp_path / 'x2y.pth'}" in str(caught.value)
        assert f"{best:.2g} of the range" in str(caught.value)


def test_without_a_label_network_the_relu_is_there_unless_the_user_says_no(tmp_path):
    _, y2h = trained_pair(False)
    request = request_of(tmp_path, {}, y2h)
    for said, taken in ((None, True), (True, True), (False, False)):
        open_request = ImportRequest(
            request.checkpoint, label_embedding=request.label_embedding, label_range=(LOW, HIGH), final_relu=said
        )
        teacher = IMPORTERS.get("ccgan-sngan")(open_request)
        assert teacher.arguments["final_relu"] is taken
        assert teacher.notes == {"entry": "netG_state_dict"}


def test_naive_label_input_has_no_use_for_a_label_network(tmp_path):
    naive = written(tmp_path / "G.pth", PlainSNGAN(9, 3, 3, 0).state_dict(), "netG_state_dict")
    for more, flag in (
        ({"label_network": tmp_path / "x2y.pth"}, f"--label-network {tmp_path / 'x2y.pth'}: "),
        ({"final_relu": True}, "--final-relu: "),
    ):
        with pytest.raises(UserError, match="naive label input") as caught:
            IMPORTERS.get("ccgan-sngan")(ImportRequest(str(naive), label_range=(0.0, 1.0), **more))
        assert str(caught.value).startswith(flag)


def test_the_command_records_the_label_network_and_the_error(tmp_path, capsys):
    x2y, y2h = trained_pair(False)
    request = request_of(tmp_path, x2y, y2h)
    asked = (
        f"import-teacher --arch ccgan-sngan --checkpoint {request.checkpoint} --label-range={LOW}:{HIGH} "
        f"--label-embedding {request.label_embedding}"
    ).split()
    both = [*asked, "--label-network", str(request.label_network)]
    assert cli.main([*both, "--out", str(tmp_path / "t")]) == 0, capsys.readouterr().err
    card = json.loads((tmp_path / "t" / "card.json").read_text())
    assert card["arguments"]["final_relu"] is False
    assert card["trained_on"]["imported"]["label_network"] == "x2y.pth"
    assert 0 < card["trained_on"]["label_round_trip_error"] < 0.03 * (HIGH - LOW)
    # The same content under another name is the same teacher; another content, or none, is not.
    moved = written(tmp_path / "moved.pth", x2y)
    moved.write_bytes(request.label_network.read_bytes())
    assert cli.main([*asked, "--label-network", str(moved), "--out", str(tmp_path / "t")]) == 0
    capsys.readouterr()
    assert cli.main([*asked, "--out", str(tmp_path / "t")]) == 2
    assert "label_network" in capsys.readouterr().err
    assert cli.main([*both, "--final-relu", "--out", str(tmp_path / "u")]) == 2
    assert "--final-relu" in capsys.readouterr().err
    assert not (tmp_path / "u").exists()
    other = f"import-teacher --arch biggan --checkpoint {request.checkpoint} --label-network {moved} --no-final-relu"
    assert cli.main(other.split()) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "--final-relu, --label-network: --arch biggan has no use for it" in error
