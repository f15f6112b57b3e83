"""What a vLLM server is told, how one that fails is told of, and that none is left; no vLLM is needed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.processes import eventually, gone
from helpers.tiny_runs import save_tiny
from minordpo.errors import InputError
from minordpo.generate import vllm_server
from minordpo.generate.vllm_server import ServedModel, reason, servable, serving, vllm_program

LOG = """(APIServer pid=1) WARNING 12-01 02:33:57 [system_utils.py:255] errors like `OSError: [Errno 24]` may come
(Worker pid=3) ERROR 12-01 02:34:35 [multiproc_executor.py:953] Traceback (most recent call last):
(Worker pid=3) ERROR 12-01 02:34:35 [multiproc_executor.py:953] ValueError: Available memory is less than desired.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}

"""


def adapter(folder: Path, base: Path, **config: object) -> Path:
    """An adapter's folder as far as its config goes."""
    folder.mkdir(parents=True)
    known = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(known | config))
    return folder


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A shell script stands where vllm would."""
    file = tmp_path / "program"
    file.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    file.chmod(0o700)
    monkeypatch.setenv("MINORDPO_VLLM", str(file))
    monkeypatch.setattr(vllm_server.tempfile, "tempdir", str(tmp_path))


def test_an_adapter_is_served_above_its_base_with_room_for_its_largest_rank(tmp_path):
    base = save_tiny(tmp_path / "base")
    assert servable(str(base)) == ServedModel(str(base))
    folder = adapter(tmp_path / "lora", base, rank_pattern={"q_proj": 20})
    served = servable(str(folder))
    assert served == ServedModel(str(base), str(folder), 20)
    words = served.arguments()
    assert words[:2] == ["--served-model-name", "base"]
    assert words[words.index("--max-lora-rank") + 1] == "32"
    assert words[-2:] == ["--lora-modules", f"adapter={folder}"]
    assert served.name == "adapter"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"], "bias": "all"}, "modules_to_save, bias all"),
        ({"rank_pattern": {"q_proj": 600}}, "rank 600"),
    ],
)
def test_an_adapter_that_vllm_does_not_compute_is_to_be_merged(tmp_path, config, said):
    folder = adapter(tmp_path / "lora", save_tiny(tmp_path / "base"), **config)
    assert servable(str(folder)) == ServedModel(str(folder), merge=said)


def test_two_adapters_one_above_the_other_are_to_be_merged(tmp_path):
    base = save_tiny(tmp_path / "base")
    folder = adapter(tmp_path / "lora", base)
    adapter(folder / "reference", base)
    assert servable(str(folder)).merge == "an adapter below another"
    assert (
        servable(str(adapter(tmp_path / "second", folder / "reference"))).merge == "an adapter below another"
    )


def test_an_adapter_of_another_type_is_refused(tmp_path):
    folder = adapter(tmp_path / "lora", save_tiny(tmp_path / "base"), peft_type="IA3")
    with pytest.raises(InputError, match="an adapter of type IA3, but the backend vllm needs LoRA"):
        servable(str(folder))


def test_a_missing_program_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MINORDPO_VLLM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs the program vllm, but none is on PATH"):
        vllm_program()


def test_the_reason_is_the_first_error_of_the_log_or_its_last_line():
    assert reason(LOG) == "ValueError: Available memory is less than desired"
    assert reason("started\nKilled\n\n") == "Killed"
    assert reason("") == "nothing"


def test_a_program_that_ends_is_told_of_with_its_log_which_is_kept(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, 'echo "it was told: $*"', "exit 3")
    monkeypatch.setenv("MINORDPO_VLLM_OPTIONS", "--gpu-memory-utilization '0.5'")
    with (
        pytest.raises(
            InputError, match=r"ended with status 3 before it was ready\. Its log says: it was"
        ) as found,
        serving(ServedModel("m"), dtype="bfloat16", room=70, at_once=5),
    ):
        pass
    (kept,) = tmp_path.glob("minordpo-vllm-*")  # the folder of the socket is gone
    assert str(kept) in str(found.value)
    told = kept.read_text()
    assert told.startswith("it was told: serve m --gpu-memory-utilization 0.5 --served-model-name base")
    assert "--dtype bfloat16 --max-model-len 70 --max-num-seqs 5 --generation-config vllm" in told


def test_options_that_cannot_be_split_are_refused(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "exit 3")
    monkeypatch.setenv("MINORDPO_VLLM_OPTIONS", "--x 'open")
    with (
        pytest.raises(InputError, match=r"MINORDPO_VLLM_OPTIONS is .* cannot be split"),
        serving(ServedModel("m"), dtype="float32", room=70, at_once=5),
    ):
        pass


def test_a_program_that_is_never_ready_is_ended_with_what_it_started(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "sleep 600 &", f"echo $! > {tmp_path}/pid", "wait")
    with (
        pytest.raises(InputError, match="was not ready within 2 seconds"),
        serving(ServedModel("m"), dtype="float32", room=70, at_once=5, seconds=2.0),
    ):
        pass
    process = int((tmp_path / "pid").read_text())
    assert eventually(lambda: gone(process))


def test_a_server_ends_with_a_command_that_is_killed(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "sleep 600 &", f"echo $! > {tmp_path}/pid", "wait")
    lines = (
        "from minordpo.generate.vllm_server import ServedModel, serving",
        "with serving(ServedModel('m'), dtype='float32', room=70, at_once=5): pass",
    )
    command = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    file = tmp_path / "pid"
    assert eventually(lambda: file.exists() and file.read_text().strip() != "")
    process = int(file.read_text())
    assert not gone(process)
    command.kill()
    command.wait()
    assert eventually(lambda: gone(process))
