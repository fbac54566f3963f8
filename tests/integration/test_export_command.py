"""`ropewalk export` from the command line: what it writes, that it reads back, and what it refuses in one line."""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

import ropewalk as rw
from conftest import Command, Done
from ropewalk import Rotary
from ropewalk.formats import gguf_file, hf, llamacpp, mlx, sglang, vllm
from ropewalk.formats.compare import disagreement
from ropewalk.formats.layers import rotary_of

sys.path.append(str(Path(__file__).parents[1] / "unit" / "formats"))
from stock import CONFIGS, assert_same

YARN = ("--encoding", "Yarn(factor=2.0, trained_length=512)")
WANTED = (Rotary(16, 10000.0, (rw.Yarn(2.0, 512),)),) * 2
TWICE = "Rotary(16, scaling=(Linear(2.0), Yarn(2.0, 1024)))"
MOVING = ("--encoding", "DynamicNTK(factor=2.0, trained_length=512)")


def complaint(done: Done) -> str:
    """The one line that says what is wrong."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("ropewalk: ")
    assert done.err.count("\n") == 1
    return done.err


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A GGUF of two layers without a vocabulary, and weights of 1 MiB that mean nothing."""
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "small.gguf", "llama")
    for key, value in {
        "context_length": 512,
        "embedding_length": 32,
        "block_count": 2,
        "head_count": 2,
        "rope_dimension_count": 16,
    }.items():
        getattr(writer, f"add_{key}")(value)
    rng = np.random.default_rng(0)
    for i in range(2):
        writer.add_tensor(f"blk.{i}.weight", rng.normal(size=(256, 512)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "small.gguf"


# to paste


def test_overrides_on_standard_output(ropewalk: Command, built: Path) -> None:
    config = config_of(built)
    for engine, module, flag in (("vllm", vllm, "--max-model-len 1024"), ("sglang", sglang, "--context-length 1024")):
        done = ropewalk("export", built, "--engine", engine, *YARN)
        assert done.code == 0
        assert done.out.count("\n") == 1
        assert disagreement(WANTED, module.read(json.loads(done.out), config), 1024) is None
        said, command = done.err.splitlines()
        assert said.startswith(f"{built}, 2 layers for 1,024 tokens: 2 x Rotary(dim=16, scaling=(Yarn(")
        assert command.endswith(flag)
        inner = command.split("$(")[1].split(')" ')[0]
        # what the shell would run gives the same again
        again = ropewalk(*shlex.split(inner)[1:])
        assert (again.code, again.out) == (0, done.out)


def test_flags_on_standard_output(ropewalk: Command, built: Path, small: Path) -> None:
    made = ropewalk("export", built, "--engine", "llamacpp", *YARN)
    assert llamacpp.read({"flags": made.out.split()}, config_of(built)) == WANTED
    assert made.err.splitlines()[-1].startswith("llama-server -m MODEL.gguf $(ropewalk export ")
    there = ropewalk("export", small, "--engine", "llamacpp", *YARN)
    assert there.out == made.out
    assert there.err.splitlines()[-1].startswith(f"llama-server -m {small} $(ropewalk export {small} ")


def test_the_models_own_positions(ropewalk: Command, built: Path, small: Path) -> None:
    done = ropewalk("export", built, "--engine", "hf")
    assert hf.read(json.loads(done.out)) == (Rotary(16),) * 2
    assert json.loads(done.out)["max_position_embeddings"] == 512
    flags = ropewalk("export", small, "--engine", "llamacpp", "--to", "300").out
    assert flags == "--rope-scaling none --rope-freq-base 10000 -c 300\n"


@pytest.mark.parametrize(
    ("encoding", "length"),
    [
        ("Yarn(factor=4.0, trained_length=256)", 1024),
        ("Linear(3.0)", 1536),
        ("DynamicYarn(trained_length=256)", 512),
        ("Rotary(16, scaling=(NTK(2.0),))", 1024),
        (
            f"[{TWICE}, {TWICE}]",
            2048,
        ),
        ("Rotary(16, 5e5)", 512),
    ],
)
def test_the_length_that_factors_lead_to(encoding: str, length: int, ropewalk: Command, built: Path) -> None:
    done = ropewalk("export", built, "--engine", "hf", "--encoding", encoding, "--allow-loss")
    assert json.loads(done.out)["max_position_embeddings"] == length


# files


@pytest.mark.parametrize("engine", ["hf", "mlx"])
def test_a_checkpoint(engine: str, ropewalk: Command, built: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in built.iterdir()}
    done = ropewalk("export", built, "--engine", engine, *YARN, "--out", tmp_path / "new", "--json")
    told = json.loads(done.out)
    assert done.code == 0
    assert names(tmp_path / "new") == names(built) == set(told["files"])
    assert (tmp_path / "new" / "model.safetensors").samefile(built / "model.safetensors")
    assert told["files"] == dict.fromkeys(names(built)) | {
        "config.json": (tmp_path / "new" / "config.json").read_text()
    }
    assert (told["losses"], told["length"], told["encodings"]) == ([], 1024, [rw.short(WANTED[0])] * 2)
    new = config_of(tmp_path / "new")
    got = mlx.read({}, new) if engine == "mlx" else hf.read(new)
    assert disagreement(WANTED, got, 1024) is None
    assert {file.name: file.read_bytes() for file in built.iterdir()} == before
    if engine == "hf":
        assert told["command"] == f"AutoModelForCausalLM.from_pretrained('{tmp_path / 'new'}')"
        model = eval(told["command"], {"AutoModelForCausalLM": AutoModelForCausalLM})
        assert_same(WANTED[0], model.config, 0, 1024)


def test_a_config_alone(ropewalk: Command, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    done = ropewalk("export", built / "config.json", "--engine", "hf", *YARN, "--out", out)
    assert done.code == 0
    assert names(out) == {"config.json"}
    command = done.err.splitlines()[-1]
    there = f"AutoConfig.from_pretrained('{out}/config.json')"
    assert command == f"AutoModelForCausalLM.from_pretrained('MODEL', config={there})"
    stock = {"AutoModelForCausalLM": AutoModelForCausalLM, "AutoConfig": AutoConfig}
    model = eval(command.replace("MODEL", str(built)), stock)
    assert_same(WANTED[0], model.config, 0, 1024)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_a_file_for_an_engine(engine: str, ropewalk: Command, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "it's new"
    done = ropewalk("export", built, "--engine", engine, *YARN, "--out", out)
    assert (done.code, done.out) == (0, "")
    (file,) = out.iterdir()
    assert file.read_text() == ropewalk("export", built, "--engine", engine, *YARN).out
    command = done.err.splitlines()[-1]
    inner = command.split("$(")[1].split(")")[0]
    shown = subprocess.run(["bash", "-c", inner], capture_output=True, text=True, check=True).stdout
    assert shown == file.read_text()


def test_two_files_need_a_folder(ropewalk: Command, small: Path, tmp_path: Path) -> None:
    divisors = ("--encoding", "Llama3(factor=8.0, trained_length=128)", "--allow-loss")
    words = ("export", small, "--engine", "llamacpp", *divisors)
    done = ropewalk(*words)
    assert done.code == 2
    said = "--out must name a folder for the 2 files llamacpp.txt, llamacpp.tensors.json"
    assert done.err.splitlines()[-1] == f"ropewalk: {said}"
    assert ropewalk(*words, "--out", tmp_path / "out").code == 0
    assert names(tmp_path / "out") == {"llamacpp.txt", "llamacpp.tensors.json"}


def test_a_new_gguf(ropewalk: Command, small: Path, tmp_path: Path) -> None:
    before, new = small.read_bytes(), tmp_path / "new.gguf"
    words = ("export", small, "--engine", "gguf", "--encoding", "Llama3(factor=8.0, trained_length=128)", "--out", new)
    done = ropewalk(*words, "--json")
    told = json.loads(done.out)
    assert (done.code, told["losses"], told["files"]) == (0, [], {"new.gguf": None})
    assert told["command"] == f"llama-server -m {new} -c 1024"
    old, header = gguf_file.open(small), gguf_file.open(new)
    assert header.metadata["llama.context_length"] == 1024
    data = new.read_bytes()
    assert set(header.tensors) == {*old.tensors, "rope_freqs.weight"}
    for name, info in old.tensors.items():
        there = header.tensors[name]
        assert (there.shape, there.type, there.size) == (info.shape, info.type, info.size)
        assert data[there.start : there.start + there.size] == before[info.start : info.start + info.size]
    assert small.read_bytes() == before
    # divisors are float32 in the file
    got = ropewalk("export", new, "--engine", "llamacpp", "--json")
    assert "Rescale(factors=" in json.loads(got.out)["encodings"][0]
    assert "is there already; name another one" in complaint(ropewalk(*words))
    assert new.read_bytes() == data
    assert names(tmp_path) == {"small.gguf", "new.gguf"}


# losses


@pytest.mark.parametrize("engine", ["hf", "vllm", "sglang", "llamacpp", "mlx"])
def test_a_loss_is_told_and_must_be_allowed(engine: str, ropewalk: Command, built: Path, tmp_path: Path) -> None:
    # transformers alone carries the rule as it is, up to where it starts to count
    rule = MOVING if engine not in ("hf", "mlx") else ("--encoding", "DynamicYarn(trained_length=512)")
    words = ("export", built, "--engine", engine, *rule, "--to", "2048", "--out", tmp_path / "out")
    done = ropewalk(*words)
    assert (done.code, done.out) == (2, "")
    *lost, last = done.err.splitlines()
    assert last == f"ropewalk: {engine} cannot carry all of it; --allow-loss writes what is nearest"
    assert len(lost) == 1
    assert "should be bent less; written instead: the rule frozen as it is at 2048 tokens; rates differ" in lost[0]
    assert names(tmp_path) == set()
    done = ropewalk(*words, "--allow-loss", "--json")
    told = json.loads(done.out)["losses"]
    assert done.code == 0
    assert done.err.splitlines()[0] == f"lost: {told[0]['text']}."
    assert told[0]["frequency"] > 0.1
    assert told[0]["instead"] == "the rule frozen as it is at 2048 tokens"
    assert (tmp_path / "out").is_dir()


def test_a_loss_of_a_gguf(ropewalk: Command, small: Path, tmp_path: Path) -> None:
    words = ("export", small, "--engine", "gguf", *MOVING, "--to", "2048", "--out", tmp_path / "new.gguf")
    done = ropewalk(*words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 2)
    assert names(tmp_path) == {"small.gguf"}
    assert ropewalk(*words, "--allow-loss").code == 0


def test_flags_that_would_need_divisors(ropewalk: Command, small: Path) -> None:
    done = ropewalk("export", small, "--engine", "llamacpp", "--encoding", "Llama3(factor=8.0, trained_length=128)")
    lost, last = done.err.splitlines()
    assert "do something else without rope_freqs.weight in the GGUF" in lost
    assert last.endswith("--allow-loss writes what is nearest, and --engine gguf a GGUF that has them")


# what goes wrong


def test_bad_requests_in_one_line(ropewalk: Command, built: Path, small: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    here = set(names(tmp_path))
    for words, says in (
        (
            (built, "--engine", "vlm"),
            "--engine must be one of hf, vllm, sglang, llamacpp, gguf, mlx, got 'vlm'; did you",
        ),
        ((built, "--engine", "llama.cpp"), "did you mean 'llamacpp'?"),
        ((built, "--engine", "vllm", "--encoding", "Yran(2.0, 512)"), "unknown name 'Yran'; did you mean 'Yarn'?"),
        (
            (built, "--engine", "vllm", "--encoding", "Yarn(0, 512)"),
            "Yarn.factor must be a number of at least 1, got 0",
        ),
        ((built, "--engine", "vllm", "--encoding", "Yarn("), "notation must be one value"),
        (
            (built, "--engine", "vllm", "--encoding", "Alibi(8)"),
            "must be a scaling, a Rotary or a list of one per layer",
        ),
        ((built, "--engine", "vllm", "--encoding", "Streaming()"), "must be a scaling, a Rotary or a list"),
        (
            (built, "--engine", "vllm", "--encoding", "[Rotary(16)]"),
            "a list of encodings must be 2 long, one per layer",
        ),
        ((built, "--engine", "vllm", "--encoding", "[[1], [[2]]]"), "layer 0 is Rotary"),
        ((built, "--engine", "vllm", "--encoding", "Rotary(32)"), "layer 0 has dim 16 in the model's code, not 32"),
        ((built, "--engine", "vllm", "--encoding", "Rescale((1.0, 2.0))"), "Rescale.factors must be "),
        (
            (built, "--engine", "vllm", "--encoding", "Linear(1e30)"),
            "the window that factors lead to must be of at most",
        ),
        (
            (built, "--engine", "vllm", "--encoding", "Linear(1e308)"),
            "the window that factors lead to must be of at most",
        ),
        ((built, "--engine", "vllm", "--to", "1e30"), "Invalid value for '--to'"),
        ((built, "--engine", "vllm", "--to", 10**30), "--to must be from 1 to 1000000000000 tokens"),
        ((built, "--engine", "vllm", "--to", "0"), "--to must be from 1 to 1000000000000 tokens, got 0"),
        ((built, "--engine", "llamacpp", "--to", 2**31), "length must be a whole number from 1 to 2147483647"),
        ((built, "--engine", "gguf", *out), "--engine gguf makes a new GGUF of an old one"),
        ((small, "--engine", "gguf"), "--out must name the new GGUF"),
        ((small, "--engine", "gguf", "--out", small), f"--out {small} is there already; name another one"),
        ((built, "--engine", "hf", "--out", tmp_path), f"--out {tmp_path} is there already; name another one"),
        ((built, "--engine", "hf", "--out", tmp_path / "no" / "out"), "is in no folder that exists"),
        ((built, "--engine", "hf", "--out", small / "out"), "is in no folder that exists"),
        ((tmp_path / "nowhere", "--engine", "hf"), "no such file or folder"),
        (("n" * 5000, "--engine", "hf"), "no model can have this name: File name too long"),
        ((built, "--engine", "hf", "--out", "n" * 5000), "--out cannot be written: File name too long"),
        ((tmp_path, "--engine", "hf"), f"{tmp_path} holds no config.json"),
    ):
        assert says in complaint(ropewalk("export", *words))
    assert names(tmp_path) == here


BAD: list[tuple[Any, str]] = [
    ([1, 2], "must hold one JSON object, got list"),
    ({"model_type": "llama", "rope_scaling": [1]}, "rope_scaling must be a JSON object"),
    ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 0}}, "factor must be"),
    ({"model_type": "llama", "rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, ""),
    ({"model_type": "llama", "max_position_embeddings": 1e30}, "max_position_embeddings must be a whole number"),
    ({"model_type": "llama", "rope_theta": "big"}, "rope_theta must be"),
    ({"model_type": "llama", "num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number"),
    ({"model_type": "mamba"}, "mamba"),
    ({}, "no rotary positions found"),
]


@pytest.mark.parametrize(("config", "says"), BAD, ids=lambda value: str(value)[:40])
def test_bad_configs_in_one_line(config: Any, says: str, ropewalk: Command, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    for engine in ("hf", "vllm", "sglang", "llamacpp", "mlx"):
        done = ropewalk("export", tmp_path / "config.json", "--engine", engine, *YARN, "--out", tmp_path / "out")
        if says:
            line = complaint(done)
            assert f"{tmp_path / 'config.json'}" in line
            assert says in line
            assert names(tmp_path) == {"config.json"}
        else:
            # either of the two names, or one line
            assert (done.code, (tmp_path / "out").exists()) in ((0, True), (2, False))
            assert done.code == 0 or complaint(done)
            break


def test_bad_ggufs_in_one_line(ropewalk: Command, small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    spot = whole.index(b"llama.context_length") + len("llama.context_length")
    for content, says in (
        (whole[:100], "damaged or truncated"),
        (whole[:-1000], "damaged or truncated"),
        (b"GGUG" + whole[4:], "the first four bytes must be b'GGUF'"),
        (b"", "must be a GGUF file"),
        # the window as a float
        (whole[:spot] + b"\x06\0\0\0" + whole[spot + 4 :], "llama.context_length must be a whole number"),
        (whole.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lamma"), "did you mean 'llama'?"),
    ):
        (tmp_path / "bad.gguf").write_bytes(content)
        for engine in ("gguf", "llamacpp"):
            words = ("export", tmp_path / "bad.gguf", "--engine", engine, *YARN, "--out", tmp_path / "out.gguf")
            line = complaint(ropewalk(*words))
            assert says in line
            assert str(tmp_path / "bad.gguf") in line
    assert names(tmp_path) == {"small.gguf", "bad.gguf"}


def test_weights_in_another_order(ropewalk: Command, model: Path) -> None:
    (model / "pairing.json").write_text('{"pairing": "interleaved"}')
    for engine in ("hf", "vllm", "llamacpp"):
        assert "are in interleaved order, and stock code" in complaint(ropewalk("export", model, "--engine", engine))


KILLED = """
import os, signal, sys
from ropewalk.cli.__main__ import main
from ropewalk.formats import gguf_copy

class Dying:
    def __init__(self, new):
        self.new, self.left = new, 4
    def write(self, data):
        self.left -= 1
        if not self.left:
            self.new.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.new.write(data)

copy = gguf_copy.copy_tensors
gguf_copy.CHUNK = 2**18
gguf_copy.copy_tensors = lambda new, *rest: copy(Dying(new), *rest)
main()
"""


def test_a_killed_copy_leaves_nothing_under_its_name(ropewalk: Command, small: Path, tmp_path: Path) -> None:
    words = ["export", str(small), "--engine", "gguf", *YARN, "--out", str(tmp_path / "new.gguf")]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = names(tmp_path) - {"small.gguf"}
    assert left.startswith(".new.gguf.")
    # it came as far as the weights
    assert 2**18 < (tmp_path / left).stat().st_size < small.stat().st_size
    assert ropewalk(*words).code == 0
    assert (tmp_path / "new.gguf").is_file()


def test_a_disk_that_is_full_leaves_nothing(ropewalk: Command, small: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file of this process may grow further, which fails as a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, before[1]))
    try:
        done = ropewalk("export", small, "--engine", "gguf", *YARN, "--out", tmp_path / "new.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{tmp_path / 'new.gguf'} cannot be written (File too large)" in complaint(done)
    assert names(tmp_path) == {"small.gguf"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_must_not_be_written(ropewalk: Command, built: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in complaint(ropewalk("export", built, "--engine", "hf", "--out", tmp_path / "new"))


# stock transformers


ROTATING = sorted({file.stem for file in CONFIGS.glob("*.json")} - {"gpt-j-6b"})
ELSEWHERE = set("bert-base bloom-560m falcon-rw-1b gpt2 mpt-7b opt-125m roberta-base t5-small".split())


@pytest.mark.parametrize("name", [name for name in ROTATING if name not in ELSEWHERE])
@pytest.mark.filterwarnings("ignore")
def test_stock_transformers_loads_what_is_exported(name: str, ropewalk: Command, tmp_path: Path) -> None:
    """Its own rotary module makes the tables, element by element, far within 1e-5."""
    # Ministral counts its temperature in the same length
    for i, encoding in enumerate([None, "Yarn(factor=2.0, trained_length=16384)", "NTKByParts(4.0, 16384)"]):
        words = ("--encoding", encoding) if encoding else ("--to", "4096")
        out = tmp_path / str(i)
        done = ropewalk(
            "export", CONFIGS / f"{name}.json", "--engine", "hf", *words, "--out", out, "--json", "--allow-loss"
        )
        told = json.loads(done.out)
        stock = AutoConfig.from_pretrained(out).get_text_config()
        layers = [rw.notation.parse(text) for text in told["encodings"]]
        for e in dict.fromkeys(layers):
            if rotary := rotary_of(e):
                assert_same(rotary, stock, layers.index(e), told["length"])
        assert not encoding or any(encoding.split("(")[0] in text for text in told["encodings"])


def test_models_without_rotation_are_exported_as_they_are(ropewalk: Command) -> None:
    for name in ELSEWHERE:
        config = json.loads((CONFIGS / f"{name}.json").read_text())
        done = ropewalk("export", CONFIGS / f"{name}.json", "--engine", "hf", *(() if name not in LENGTHLESS else TO))
        assert done.code == 0, done.err
        assert hf.read(json.loads(done.out)) == hf.read(config)
    assert "no layer of this model rotates" in complaint(
        ropewalk("export", CONFIGS / "gpt2.json", "--engine", "hf", *YARN)
    )


LENGTHLESS, TO = set("bloom-560m falcon-rw-1b t5-small".split()), ("--to", "512")
