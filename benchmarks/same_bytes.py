"""Run the same commands by two versions of the source, and compare what they write byte for byte.

    python benchmarks/same_bytes.py ../before/src src

Trains a tiny model in full and by an adapter, scores pairs, evaluates both runs, makes a report and judges the paper's
claims, each by either source in a process of its own. Compared are metrics.jsonl but for seconds, weights, and what
the other commands print and write but for times and versions. The exit status is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.tiny_runs import save_tiny, text_rows  # the model and rows of both are today's

TRAINING = {
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "seed": 3,
}
TRAINING |= {"eval_strategy": "steps", "eval_steps": 3}


def main() -> None:
    """Run both, print a line for each thing that is compared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs=2, type=Path, metavar="SRC", help="folder that holds minordpo/")
    sources = [source.resolve() for source in parser.parse_args().sources]
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, source in zip(("one", "two"), sources, strict=True):
            work = Path(folder) / name / "work"  # the same relative paths for both
            work.mkdir(parents=True)
            write_inputs(work)
            found.append(outcome(work, source))
    differ = 0
    for what in found[0] | found[1]:
        same = found[0].get(what) == found[1].get(what)
        differ += not same
        print(f"{'same' if same else 'DIFFERS':8} {what}")
        if not same:
            texts = [str(each.get(what)) for each in found]
            begin = next((i for i, pair in enumerate(zip(*texts, strict=False)) if len({*pair}) > 1), 0)
            for text in texts:
                print(f"    …{text[max(0, begin - 60) : begin + 120]}…")
    sys.exit(differ > 0)


def write_inputs(work: Path) -> None:
    """A tiny model, pairs, questions and two configs."""
    save_tiny(work / "base")
    for name, rows in (("pairs", text_rows(24)), ("held_out", text_rows(30)[24:])):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sums = [(i, i + 2) for i in range(6)]
    questions = [{"question": f"what is {a} + 2?", "answer": f"{a} + 2 = {b}\n#### {b}"} for a, b in sums]
    (work / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    for name, more in (("full", {}), ("adapter", {"lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]}})):
        config: dict[str, Any] = {
            "model": {"path": "base"},
            "data": {"train": "pairs.jsonl", "eval": "held_out.jsonl"},
            "objective": {"name": "dpo" if name == "full" else "minordpo", "beta": 0.1},
            "training": TRAINING,
            "samples": {"prompts": 2, "max_new_tokens": 8},
            "monitor": {"prompts": 2, "max_new_tokens": 8},
            "output": f"runs/{name}",
        }
        (work / f"{name}.yaml").write_text(yaml.safe_dump(config | more))


def outcome(work: Path, source: Path) -> dict[str, str]:
    """Digests and texts of everything that one source makes of the inputs, by what it is."""
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "MINORDPO_CACHE": str(work / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0",  # peft writes sets of names in the order of their hashes
    }
    here = (source / "minordpo" / "paper").is_dir()  # before that folder, claims were a command of their own

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "minordpo", *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"{source}: {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}"
            )
        return timeless(done.stdout)

    found = {}
    for name in ("full", "adapter"):
        run("train", f"{name}.yaml")
        folder = work / "runs" / name
        for file in ("metrics.jsonl", "responses.jsonl", "samples.jsonl", "probes.jsonl"):
            found[f"{name}: {file}"] = without_seconds((folder / file).read_text())
        for file in sorted((folder / "model").iterdir()):
            if file.suffix == ".safetensors" or file.name in ("config.json", "adapter_config.json"):
                found[f"{name}: model/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
        found[f"{name}: model card"] = timeless((folder / "model" / "README.md").read_text())
        found[f"{name}: weights digest"] = json.loads((folder / "environment.json").read_text())[
            "weights_digest"
        ]
    for more in ((), ("--reference", "base", "--tokens")):
        found[f"score {' '.join(more)}"] = run("score", "runs/full", "--pairs", "held_out.jsonl", *more)
    asked = ["--task", "questions.jsonl", "--max-new-tokens", "8", "--plain-text", "--samples", "2"]
    asked += ["--reference", "base", "--out", "evaluation"]
    found["evaluate"] = run("evaluate", "base", "runs/full", "runs/adapter", *asked)
    for file in sorted((work / "evaluation").rglob("*.jsonl")):
        found[f"evaluation/{file.relative_to(work / 'evaluation')}"] = without_seconds(file.read_text())
    results = json.loads((work / "evaluation" / "results.json").read_text())
    found["evaluation/results.json"] = json.dumps(plain(results), sort_keys=True)
    run("report", "runs", "evaluation", "--out", "page", "--pairs", "2")
    page = (work / "page" / "index.html").read_text()
    data = re.search(r"<script[^>]*application/json[^>]*>(.*?)</script>", page, flags=re.DOTALL)
    found["report: data"] = (
        json.dumps(plain(json.loads(data.group(1))), sort_keys=True) if data else "no data"
    )
    for file in sorted((work / "page" / "figures").glob("*.png")):
        found[f"report: {file.name}"] = "is there"  # pixels hold seconds a step
    claims = ["paper", "claims"] if here else ["claims"]
    found["claims"] = run(*claims, "runs/full", "--out", "claims.json")
    found["claims.json"] = json.dumps(plain(json.loads((work / "claims.json").read_text())), sort_keys=True)
    return found


def plain(value: Any) -> Any:
    """A JSON value without what tells time, place or version."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if not _of_the_moment(key)}
    return [plain(each) for each in value] if isinstance(value, list) else value


def _of_the_moment(key: str) -> bool:
    return "seconds" in key or key in ("minordpo", "machine", "date", "torch")


def without_seconds(text: str) -> str:
    """Lines of JSON without their seconds."""
    return "\n".join(json.dumps(plain(json.loads(line))) for line in text.splitlines())


def timeless(text: str) -> str:
    """Text without times, rates and temporary places."""
    text = re.sub(r"/tmp/\S+?/(one|two)/work", "WORK", text)
    return re.sub(
        r"\d+(\.\d+)? (s|seconds|minutes)\b|\d+(\.\d+)?% of looks and steps|minordpo \d\S*", "…", text
    )


if __name__ == "__main__":
    main()
