"""StyleFlow's flow against numbers of the original, its solvers, and its file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_encoders import empty
from torch import Tensor

from stylereel.core.weights import save_module
from stylereel.edit import flows
from stylereel.edit.flows import ATTRIBUTES, ROWS, Flow, FlowConfig, integrate, load_flow, runge_kutta

GOLDENS = Path(__file__).parent / "goldens"
NAMES = ("styleflow_cnf", "styleflow_cnf_2blocks")


def golden(name: str) -> tuple[dict, dict[str, Tensor], Flow]:
    manifest = json.loads((GOLDENS / f"{name}.json").read_text())
    arrays = load_file(GOLDENS / f"{name}.safetensors")
    config = manifest["config"]
    flow = Flow(
        FlowConfig(config["input_dim"], tuple(config["hidden_dims"]), config["context_dim"], config["num_blocks"])
    )
    flow.load_state_dict({key.removeprefix("state/"): v for key, v in arrays.items() if key.startswith("state/")})
    return manifest, arrays, flow.eval().requires_grad_(False)


def results(flow: Flow, arrays: dict[str, Tensor], steps: int | None) -> dict[str, Tensor]:
    """The golden's outputs, in the precision of the flow's weights."""
    kind = next(flow.parameters()).dtype
    x, context, probe = (arrays[f"in/{name}"].to(kind) for name in ("x", "condition", "probe"))
    context = context.flatten(1)
    z, change = flow.densities(x, context, probe, steps)
    back, back_change = flow.densities(0.8 * x, context, probe, steps, back=True)
    return {
        "z": z,
        "delta_logp": change,
        "reverse_of_0p8x": back,
        "reverse_delta_logp": back_change,
        "round_trip": flow.reverse(flow(x, context, steps), context, steps),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [None, 40])
def test_flow_equals_the_original(name: str, steps: int | None) -> None:
    manifest, arrays, flow = golden(name)
    for key, found in results(flow, arrays, steps).items():
        rule = manifest["outputs"][key]
        torch.testing.assert_close(found, arrays[f"out/{key}"], atol=rule["advised_atol_fp32"], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_flow_equals_the_exact_solution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, arrays, flow = golden(name)
    fixed = results(flow.double(), arrays, 100)
    monkeypatch.setattr(flows.integrate, "__defaults__", (1e-9,))
    adaptive = results(flow, arrays, None)
    for key in fixed:
        exact = arrays[f"out64/exact_{key}"]
        torch.testing.assert_close(adaptive[key], exact, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(fixed[key], exact, atol=1e-5, rtol=1e-5)


def test_names_and_shapes_are_the_published_ones() -> None:
    keys = json.loads((GOLDENS / "keys" / "styleflow_cnf.json").read_text())["keys"]
    assert {key: list(value.shape) for key, value in empty(Flow).state_dict().items()} == keys
    assert len(ATTRIBUTES) == 17 and set(ROWS) == set(ATTRIBUTES)


def test_solvers_keep_their_orders() -> None:
    """y' = -y (1 + s) has y(1) = y(0) exp(-1.5)."""
    y = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
    exact = y * torch.exp(torch.tensor(-1.5, dtype=torch.float64))
    errors = [(runge_kutta(lambda s, y: -y * (1 + s), y, steps) - exact).abs().max() for steps in (4, 8)]
    assert 12 < errors[0] / errors[1] < 20, "fourth order: half the step, a sixteenth of the error"
    for tolerance in (1e-4, 1e-8):
        assert (integrate(lambda s, y: -y * (1 + s), y, tolerance) - exact).abs().max() < 10 * tolerance


def test_a_batch_keeps_the_tolerance_of_each_sample() -> None:
    """A quick sample among slow ones: every one is as exact as alone."""
    speeds = torch.tensor([0.1] * 30 + [30.0], dtype=torch.float64)[:, None]
    y = integrate(lambda s, y: -speeds * y, torch.ones_like(speeds))
    assert ((y - torch.exp(-speeds)).abs() < 1e-4).all()


def test_what_cannot_be_integrated_is_said() -> None:
    with pytest.raises(ValueError, match="cannot be integrated"):
        integrate(lambda s, y: y * float("nan"), torch.ones(1, 1))
    with pytest.raises(ValueError, match="at least one step"):
        runge_kutta(lambda s, y: y, torch.ones(1, 1), 0)


def test_divergence_by_the_tangent_is_the_jacobians() -> None:
    """With every unit vector as the probe in turn, the mean change is exact: the log determinant of the Jacobian."""
    torch.manual_seed(0)
    flow = Flow(FlowConfig(3, (6, 5), 2)).double().eval().requires_grad_(False)
    flow.chain[0].weight.fill_(0.3)  # type: ignore[operator, union-attr]
    x, attributes = torch.randn(1, 1, 3).double(), torch.randn(1, 2).double()
    change = sum(flow.densities(x, attributes, probe[None, None], 50)[1] for probe in torch.eye(3).double())
    norm = flow.chain[0](x, attributes, None, None, False)[1] + flow.chain[2](x, attributes, None, None, False)[1]
    change = change - 2 * norm  # that of the normalisations came with every probe
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, attributes, 50).flatten(), x)
    exact = -torch.linalg.slogdet(jacobian.reshape(3, 3))[1]  # type: ignore[union-attr]
    torch.testing.assert_close(change.squeeze(), exact, atol=1e-6, rtol=1e-6)  # type: ignore[union-attr]


def test_edit_changes_the_rows_that_it_should() -> None:
    _, _, flow = golden("styleflow_cnf")
    torch.manual_seed(0)
    w, now = torch.randn(2, 6, 24), torch.randn(2, 5)
    there = now.clone()
    there[:, 2] += 1
    edited = flow.edit(w, now, there, ROWS["yaw"], steps=10)
    assert torch.equal(edited[:, 4:], w[:, 4:]) and (edited[:, :4] - w[:, :4]).abs().amax((1, 2)).min() > 0.01
    torch.testing.assert_close(flow.edit(edited, there, now, ROWS["yaw"], steps=10), w, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flow.edit(w, now, now), w, atol=2e-4, rtol=1e-4)
    many = flow.edit(w[:1], now[:1], torch.randn(5, 5), steps=10)
    assert many.shape == (5, 6, 24)


@pytest.mark.parametrize("steps", [None, 6])
def test_gradients_reach_attributes_and_end_time(steps: int | None) -> None:
    """Analysis by synthesis: angles by descent through the flow; and training by the likelihood."""
    _, arrays, flow = golden("styleflow_cnf")
    flow = flow.double().requires_grad_(True)
    z = arrays["in/x"].double()
    angle = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)

    def loss(angle: Tensor) -> Tensor:
        return flow.reverse(z, angle, steps).square().sum()

    loss(angle).backward()
    assert angle.grad is not None
    nudge = torch.zeros_like(angle)
    nudge[1, 3] = 1e-4
    with torch.no_grad():
        slope = (loss(angle + nudge) - loss(angle - nudge)) / 2e-4
    assert abs(float(slope - angle.grad[1, 3])) < 1e-2 * abs(float(slope)) + 1e-3
    assert flow.chain[1].sqrt_end_time.grad.abs() > 0  # type: ignore[union-attr]


def test_training_moves_statistics_and_likelihood() -> None:
    """A few steps of maximum likelihood on a Gaussian cloud that an attribute shifts."""
    torch.manual_seed(0)
    flow = Flow(FlowConfig(4, (16, 16), 1)).train()
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    losses = []
    for _ in range(50):
        attribute = torch.randn(64, 1)
        w = 0.5 * torch.randn(64, 1, 4) + 2 * attribute[:, None]
        z, change = flow.densities(w, attribute, torch.randn(64, 1, 4), steps=3)
        loss = (0.5 * z.square().sum(-1, keepdim=True) + change).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 1
    assert flow.chain[0].step == 50  # type: ignore[union-attr]
    flow.eval()
    w = flow.reverse(torch.zeros(1, 1, 4), torch.ones(1, 1), 8) - flow.reverse(
        torch.zeros(1, 1, 4), -torch.ones(1, 1), 8
    )
    assert (w > 1.5).all(), "the attribute moves the code as it moved the cloud"


def test_files(tmp_path: Path) -> None:
    _, arrays, flow = golden("styleflow_cnf_2blocks")
    state = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    torch.save(state, tmp_path / "modellarge10k.pt")
    save_module(tmp_path / "flow.safetensors", flows.KIND, flow)
    for name, tolerance in (("modellarge10k.pt", 0.0), ("flow.safetensors", 2e-3)):
        found = load_flow(tmp_path / name)
        assert found.config == flow.config and not found.training
        for key, value in found.state_dict().items():
            torch.testing.assert_close(value, flow.state_dict()[key], atol=tolerance, rtol=tolerance)
    del state["chain.3.sqrt_end_time"], state["chain.1.odefunc.diffeq.layers.2._layer.weight"]
    torch.save(state, tmp_path / "modellarge10k.pt")
    with pytest.raises(ValueError, match="layers.2._layer.weight is missing"):
        load_flow(tmp_path / "modellarge10k.pt")
    torch.save({"chain": torch.zeros(3)}, tmp_path / "modellarge10k.pt")
    with pytest.raises(ValueError, match="holds no flow"):
        load_flow(tmp_path / "modellarge10k.pt")
