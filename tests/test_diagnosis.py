"""What `diagnose` says of networks whose fault is known, and that it says nothing of healthy ones."""

import copy
import dataclasses
import math
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradflow_utils as gf

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import bank  # noqa: E402
import second_bank  # noqa: E402
from diagnosis import is_right, ours  # noqa: E402

DATA = gf.digits().train
X, Y = DATA.x[:256], DATA.y[:256]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def judge(net, x=X, y=Y, loss_fn=F.cross_entropy):
    return gf.diagnose(net, (x, y), loss_fn)


def trained(net, optimizer, steps=6):
    with gf.record(net, optimizer) as flow:
        gf.train(net, (X, Y), optimizer, steps, progress=False)
    return gf.diagnose(flow)


def deep(activation, init, **options):
    return gf.mlp([64, *[128] * 20, 10], activation, init, seed=0, **options)


# Kind by kind: a sick network beside the same network, cured


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_default_initialisation_vanishes_and_he_does_not(activation):
    finding = next(one for one in judge(deep(activation, "default")) if one.kind == "vanishing")
    assert finding.measured < 1e-6 and finding.threshold == 1e-3
    assert finding.where[0] == f"{activation}1" and finding.where[-1] == f"{activation}20"
    assert "weights too small" in finding.cause and "He" in finding.cure
    assert judge(deep(activation, "he")).kinds == []


def test_units_that_are_off_because_the_signal_has_faded_are_not_dead():
    net = deep("relu", "default")
    with gf.record(net) as flow:
        F.cross_entropy(net(X), Y).backward()
    assert flow["dead"].max() > 0.4
    assert gf.diagnose(flow).kinds == ["vanishing"]


def test_layers_of_dead_units_are_named_with_the_time_of_death():
    net = gf.mlp([64, 32, 32, 10], "relu", "he", seed=0)
    with gf.record(net) as flow:
        for bias in (0.0, -9.0, -9.0):
            net.linear2.bias.data.fill_(bias)
            F.cross_entropy(net(X), Y).backward()
    killed, born = gf.diagnose(flow)[0], judge(net)[0]
    for finding in (killed, born):
        assert finding.kind == "dead" and finding.where == ("relu2",) and finding.measured == 1.0
        assert "100%" in finding.evidence
    assert "updates" in killed.cause and "start" in born.cause


@pytest.mark.parametrize("rate, inputs, word", [(3.0, 1, "updates that were too large"), (0.1, 100, "from the start")])
def test_saturation_by_training_is_told_from_saturation_at_the_start(rate, inputs, word):
    net = gf.mlp([64, *[48] * 8, 10], "tanh", "xavier", seed=0)
    optimizer = torch.optim.SGD(net.parameters(), rate)
    with gf.record(net, optimizer) as flow:
        gf.train(net, (X * inputs, Y), optimizer, 20, progress=False)
    finding = gf.diagnose(flow)[0]
    assert finding.kind == "saturated" and word in finding.cause


def test_a_matched_gain_that_is_too_large_explodes():
    assert judge(deep("relu", "he", gain=4.0)).kinds == ["exploding"]
    assert judge(deep("relu", "he")).kinds == []


def test_activations_beyond_a_root_mean_square_of_1000_explode():
    finding = judge(gf.mlp([64, 32, 10], "relu", "he", seed=0), x=1e5 * X)[-1]
    assert finding.kind == "exploding" and finding.where == ("relu1",) and finding.measured > 1e3


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_saturated_layers_are_named(activation):
    net = gf.mlp([64, 32, 32, 10], activation, "xavier", seed=0)
    assert judge(net).kinds == []
    net.linear1.bias.data.fill_(9.0)
    findings = judge(net)
    assert findings.kinds[0] == "saturated" and findings[0].where == ("tanh1" if activation == "tanh" else "sigmoid1",)


def test_a_sigmoid_at_the_output_may_be_as_sure_as_it_likes():
    net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1), nn.Sigmoid(), nn.Flatten(0))
    net[2].bias.data.fill_(9.0)
    assert judge(net, y=(Y > 4).float(), loss_fn=F.binary_cross_entropy).kinds == []


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.front, self.back = gf.mlp([64, 32, 32], "relu", "he", seed=0), gf.mlp([32, 32, 10], "relu", "he", seed=1)

    def forward(self, x):
        return self.back(self.front(x).detach())


def test_weights_behind_a_detach_are_disconnected_unless_they_are_frozen_on_purpose():
    net = Detached()
    findings = judge(net)
    assert findings.kinds == ["disconnected"]
    assert findings[0].where == ("front.linear1.weight", "front.linear2.weight")
    net.front.requires_grad_(False)
    assert judge(net).kinds == []


def test_a_head_that_the_loss_does_not_use_is_a_note_and_no_finding():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.pooler = gf.mlp([64, 32, 32, 32, 10], "relu", "he", seed=0), nn.Linear(10, 10)

        def forward(self, x):
            h = self.body(x)
            return h, self.pooler(h)

    findings = judge(Pooled(), loss_fn=lambda output, y: F.cross_entropy(output[0], y))
    assert findings.kinds == []
    assert "pooler.weight" in findings.notes["no gradient: the loss does not reach it"]


@pytest.mark.parametrize(("rate", "kinds"), [(1e-9, ["update too small"]), (1e-3, []), (1.0, ["update too large"])])
def test_the_size_of_the_updates(rate, kinds):
    net = gf.mlp([64, 32, 32, 10], "tanh", "xavier", seed=0)
    findings = trained(net, torch.optim.Adam(net.parameters(), rate), steps=3)
    assert [kind for kind in findings.kinds if "update" in kind] == kinds


def test_updates_that_were_not_measured_are_not_judged():
    net = gf.mlp([64, 32, 32, 10], "tanh", "xavier", seed=0)
    with gf.record(net) as flow:
        gf.train(net, (X, Y), torch.optim.Adam(net.parameters(), 1e-9), 3, progress=False)
    assert gf.diagnose(flow).kinds == []


def test_equal_weights_are_a_symmetry_and_a_layer_of_one_unit_is_none():
    net = gf.mlp([64, 32, 1, 32, 10], "tanh", "xavier", seed=0)
    assert judge(net).kinds == []
    nn.init.constant_(net.linear1.weight, 0.02)
    findings = judge(net)
    assert findings.kinds == ["symmetry"] and findings[0].where == ("tanh1",)


def test_a_head_that_starts_at_zero_is_no_symmetry():
    net = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, 10))
    for parameter in net[-1].parameters():
        nn.init.zeros_(parameter)
    assert judge(net).kinds == []


def test_a_gate_that_stays_open_is_no_saturation():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.gates, self.head = nn.Linear(16 + 8, 4 * 16), nn.Linear(16, 10)
            self.gates.bias.data[:16] = 6.0  # of the forget gate

        def forward(self, x):
            h = c = x.new_zeros(len(x), 16)
            for step in x.reshape(len(x), 8, 8).unbind(1):
                forget, let_in, out, new = self.gates(torch.cat((step, h), 1)).chunk(4, 1)
                c = forget.sigmoid() * c + let_in.sigmoid() * new.tanh()
                h = out.sigmoid() * c.tanh()
            return self.head(h)

    torch.manual_seed(0)
    assert judge(Cell()).kinds == []


def test_first_updates_are_not_judged():
    net = gf.mlp([64, 32, 32, 10], "tanh", "xavier", seed=0)
    assert trained(net, torch.optim.SGD(net.parameters(), 0.0), steps=2).kinds == []
    assert trained(net, torch.optim.SGD(net.parameters(), 0.0), steps=3).kinds == ["update too small"]


def test_an_activation_of_a_single_number_is_recorded():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.gate = nn.Linear(64, 10), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.linear(x) * torch.sigmoid(self.gate)

    assert judge(Gated()).kinds == []


@pytest.mark.parametrize("bias", [True, False])
def test_an_empty_border_of_the_images_is_no_symmetry(bias):
    net = nn.Sequential(nn.Conv2d(1, 8, 3, bias=bias), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=bias), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(8 * 24 * 24, 10))
    for layer in (net[0], net[2]):
        nn.init.kaiming_normal_(layer.weight)
        if bias:
            nn.init.zeros_(layer.bias)
    images = F.pad(normal(32, 1, 20, 20), (4, 4, 4, 4))
    assert judge(net, images, torch.arange(32) % 10).kinds == []


# What is not finite


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda net: net.linear2.weight.data.fill_(math.inf), "the weight linear2.weight"),
        (lambda net: net.linear2.register_forward_hook(lambda *_: torch.full((256, 32), math.nan)), "the output of tanh2"),
        (lambda net: net.linear3.register_forward_hook(lambda module, inputs, output: (output * 0).sqrt()), "the gradient"),
    ],
    ids=["weight", "output", "gradient"],
)
def test_the_first_thing_that_is_not_finite_is_named(spoil, words):
    net = gf.mlp([64, 32, 32, 10], "tanh", "xavier", seed=0)
    spoil(net)
    findings = gf.diagnose(net, (X, Y), F.cross_entropy)
    assert findings.kinds == ["non-finite"]
    assert findings[0].evidence.startswith(words) and "step 0" in findings[0].evidence


def test_a_loss_that_is_not_finite_is_named():
    net = gf.mlp([64, 32, 10], "tanh", "xavier", seed=0)
    findings = gf.diagnose(net, (X, Y), lambda output, y: F.cross_entropy(output, y) * math.inf)
    assert findings.kinds == ["non-finite"] and findings[0].evidence.startswith("the loss")


def test_steps_after_the_first_that_is_not_finite_are_not_judged():
    net = gf.mlp([64, 32, 32, 10], "tanh", "xavier", seed=0)
    with gf.record(net) as flow:
        for x in (X, X, X * math.nan, X * math.nan, X * math.nan):
            F.cross_entropy(net(x), Y).backward()
    findings = gf.diagnose(flow)
    assert findings.kinds == ["non-finite"] and "at step 2" in findings[0].evidence


def test_a_norm_that_overflows_float32_is_exploding_and_not_nan():
    net = gf.mlp([64, 32, 32, 10], "tanh", "xavier", seed=0)
    findings = gf.diagnose(net, (X, Y), lambda output, y: output.sum() * 1e36)
    assert "non-finite" not in findings.kinds


# Models that nobody here wrote


class Classifier(nn.Module):
    """A body of torch.nn, read out at its last position."""

    def __init__(self, body):
        super().__init__()
        self.body, self.head = body, nn.Linear(32, 3)

    def forward(self, x):
        h = self.body(x, x) if isinstance(self.body, nn.Transformer) else self.body(x)
        return self.head((h[0] if isinstance(h, tuple) else h)[:, -1])


def of_torch(name):
    torch.manual_seed(0)
    bodies = {
        "transformer": lambda: nn.Transformer(32, 4, 2, 2, 64, batch_first=True),
        "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 4),
        "lstm": lambda: nn.LSTM(32, 32, 2, batch_first=True),
        "gru": lambda: nn.GRU(32, 32, 2, batch_first=True),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the encoder, about nested tensors
        return Classifier(bodies[name]())


SEQUENCES, LABELS = normal(32, 6, 32), torch.arange(32) % 3


@pytest.mark.parametrize("name", ["transformer", "encoder", "lstm", "gru"])
def test_silent_on_the_modules_of_torch(name):
    net = of_torch(name)
    assert judge(net, SEQUENCES, LABELS).kinds == []
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    with gf.record(net, optimizer) as flow:
        gf.train(net, (SEQUENCES, LABELS), optimizer, 8, progress=False)
    assert gf.diagnose(flow).kinds == []


def test_an_lstm_that_forgets_vanishes_over_time():
    net = of_torch("lstm")
    finding = judge(net, normal(32, 100, 32), LABELS)[0]
    assert finding.kind == "vanishing" and finding.where == ("body",)
    assert "time step" in finding.evidence and "forget" in finding.cure


def of_transformers(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = {"vocab_size": 100, "num_labels": 3}
    if name == "bert":
        config = transformers.BertConfig(
            hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, max_position_embeddings=64, **text
        )
        return transformers.BertForSequenceClassification(config)
    if name == "gpt2":
        config = transformers.GPT2Config(n_embd=64, n_layer=4, n_head=4, n_positions=64, pad_token_id=0, **text)
        return transformers.GPT2ForSequenceClassification(config)
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64], depths=[2, 2, 2], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def batch_for(name):
    if name == "resnet":
        return {"pixel_values": normal(32, 3, 32, 32), "labels": LABELS}
    return {"input_ids": torch.randint(1, 100, (32, 12), generator=torch.Generator().manual_seed(0)), "labels": LABELS}


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet"])
def test_silent_on_models_of_the_transformers_package(name):
    net, batch = of_transformers(name), batch_for(name)
    assert gf.diagnose(net, (batch, None), lambda output, _: output.loss).kinds == []
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    with gf.record(net.train(), optimizer) as flow:
        for _ in range(6):
            optimizer.zero_grad()
            net(**batch).loss.backward()
            optimizer.step()
    assert gf.diagnose(flow).kinds == []
    assert len(flow.layers) >= 4 and flow["grad_norm"].isfinite().all()


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet"])
def test_faults_are_found_in_models_of_the_transformers_package(name):
    net, batch = of_transformers(name), batch_for(name)
    before_activation = {"bert": "intermediate.dense.bias", "gpt2": "mlp.c_fc.bias", "resnet": "normalization.bias"}[name]
    for parameter_name, parameter in net.named_parameters():
        if parameter_name.endswith(before_activation):
            parameter.data.fill_(-9.0)
    assert gf.diagnose(net, (batch, None), lambda output, _: output.loss).kinds[0] == "dead"
    net = of_transformers(name)
    next(iter(net.parameters())).data[:] = math.nan
    assert gf.diagnose(net, (batch, None), lambda output, _: output.loss).kinds == ["non-finite"]


# The two banks


def test_the_banks_are_as_large_and_varied_as_they_should_be():
    kinds = {"", "non-finite", "dead", "saturated", "disconnected", "exploding", "vanishing"}
    kinds |= {"update too large", "update too small", "symmetry"}
    for cases in (bank.CASES, second_bank.CASES):
        assert len(cases) >= 60 and len({case.name for case in cases}) == len(cases)
        assert {case.family for case in cases} == {"mlp", "convolutional", "recurrent", "transformer"}
        assert {case.fault for case in cases} == kinds
        assert all(case.why for case in cases)
        assert 0.4 < sum(not case.fault for case in cases) / len(cases) < 0.6


@pytest.mark.parametrize("cases", [bank.CASES, second_bank.CASES], ids=["tuned on", "never tuned on"])
def test_at_least_95_percent_of_a_bank_are_judged_right_and_of_its_healthy_networks_left_alone(cases):
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = {case: is_right(case, ours(case, seed=0)) for case in cases}
    assert sum(right.values()) >= 0.95 * len(right), [case.name for case, well in right.items() if not well]
    healthy = [well for case, well in right.items() if not case.fault]
    assert sum(healthy) >= 0.95 * len(healthy)


# As text, as a page, as data


def test_a_diagnosis_prints_every_part_of_every_finding_and_the_notes():
    net = deep("relu", "default")
    net.linear1.requires_grad_(False)
    findings = judge(net)
    text = str(findings)
    assert text.startswith("1 finding in 1 step of 20 layers and 42 parameters.")
    for finding in findings:
        for part in ("kind", "evidence", "cause", "cure", "confirm"):
            assert getattr(finding, part) in " ".join(text.split())
    assert max(map(len, text.splitlines()[:-2])) <= 100
    assert "Note: no gradient: frozen (requires_grad=False): linear1.weight, linear1.bias" in text
    assert repr(findings) == text


def test_a_diagnosis_of_a_healthy_network_says_what_was_looked_at():
    assert str(judge(deep("relu", "he"))) == "No finding in 1 step of 20 layers and 42 parameters."


def test_a_diagnosis_is_a_page_in_a_notebook_with_names_escaped():
    net = gf.mlp([64, 32, 32, 10], "relu", "he", seed=0)
    net.linear1.bias.data.fill_(-99.0)
    findings = judge(nn.ModuleDict({"<b>": net})["<b>"])
    page = findings._repr_html_()
    assert page.count("<table>") == len(findings) and "<th" in page
    odd = dataclasses.replace(findings[0], evidence="<script>")
    assert "<script>" not in gf.Diagnosis((odd,), "x", {"<script>": ["<script>"]})._repr_html_()


def test_a_diagnosis_is_data():
    findings = judge(deep("relu", "default"))
    assert [dataclasses.asdict(finding)["kind"] for finding in findings] == findings.kinds == ["vanishing"]
    assert isinstance(findings[0], gf.Finding) and len(findings) == 1 and findings


# Leaves the model as it was; refuses what it cannot judge


def test_a_model_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10)).eval()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert judge(net).kinds == []
    assert torch.equal(torch.get_rng_state(), state)
    x = X.clone().requires_grad_()
    judge(net, x=x)
    assert x.grad is None
    assert not net.training and all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(mine, old) for mine, old in zip(net.state_dict().values(), before.values(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("net",), TypeError, "what: got str"),
        ((deep("relu", "he"),), ValueError, r"batch: got NoneType, expected a pair \(x, y\)"),
        ((deep("relu", "he"), X, F.cross_entropy), ValueError, r"batch: got Tensor, expected a pair \(x, y\)"),
        ((deep("relu", "he"), (X, Y), nn.CrossEntropyLoss), ValueError, "loss_fn: expected a function"),
        ((deep("relu", "he"), (X, Y), nn.CrossEntropyLoss(reduction="none")), ValueError, r"returned shape \(256,\)"),
        ((deep("relu", "he"), (X, Y), lambda output, y: y.float().mean()), ValueError, "a trainable parameter"),
        ((deep("relu", "he"), (X, Y)), ValueError, "loss_fn: expected a function"),
        ((gf.FlowRecord(),), ValueError, "flow: the record holds no step"),
        ((gf.FlowRecord(), (X, Y)), ValueError, "batch, loss_fn: they belong to a model"),
        ((nn.Tanh(), (X, Y), F.cross_entropy), ValueError, "model: Tanh has no parameters"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_a_remedy(arguments, error, message):
    with pytest.raises(error, match=message):
        gf.diagnose(*arguments)


def test_several_inputs_are_passed_as_arguments():
    net = nn.Bilinear(3, 4, 5)
    assert gf.diagnose(net, ((normal(20, 3), normal(20, 4)), normal(20, 5)), F.mse_loss).kinds == []
