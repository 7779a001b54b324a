"""The command: what it prints, its exit codes, and what it says of bad input."""

import contextlib
import io
import json
import random
import sys
from pathlib import Path
from unittest import mock

import pytest

from medbreach.cli import main
from medbreach_dp_lint.files import read

HERE = Path(__file__).parent
FILES = sorted([*(HERE / "clean").iterdir(), *(HERE / "wrong").iterdir()])


def run(*arguments):
    """Run the program; return its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["medbreach"]),
        pytest.raises(SystemExit) as end,
    ):
        main(["dp-lint", *map(str, arguments)])
    said = err.getvalue().splitlines(keepends=True)
    others = "is left out"  # what is said of other plugins that are broken
    return end.value.code, out.getvalue(), "".join(line for line in said if others not in line)


def test_the_verdict_is_the_first_line():
    code, out, err = run(HERE / "wrong" / "flip_flower_defaults.yaml")
    assert (code, err) == (1, "")
    first = out.splitlines()[0]
    assert "epsilon 2.131e+08 at delta 1e-05 per client" in first
    assert "where 10 is stated; 3 errors" in first
    assert "error sensitivity-not-clip: " in out


def test_plain_numbers_pass():
    numbers = "--noise-multiplier 1.0 --clip 1.0 --sample-rate 0.01 --steps 100 --delta 1e-5"
    code, out, _ = run(*numbers.split(), "--rounds", 10)
    assert code == 0
    assert out.startswith("options: epsilon 1.8")
    assert "nothing wrong found" in out
    assert "10 rounds" in out


def test_json_is_for_machines():
    code, out, _ = run(
        HERE / "clean" / "opacus_prv.yaml", HERE / "wrong" / "no_noise.yaml", "--json"
    )
    good, bad = json.loads(out)
    assert code == 1
    assert good["findings"] == []
    assert good["effective"]["training"] == pytest.approx(1.838, abs=0.02)
    assert bad["effective"]["training"] is None
    assert [f["id"] for f in bad["findings"] if f["severity"] == "error"] == ["no-noise"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.yaml",
            "noise_multiplier: 1\nmax_gradnorm: 1\nsteps: 1\n",
            "did you mean max_grad_norm?",
        ),
        (
            "a.yaml",
            "noise_multiplier: [1]\nclip: 1\nsteps: 1\n",
            "noise_multiplier has to be a number, not a list",
        ),
        (
            "a.yaml",
            "noise_multiplier: .nan\nclip: 1\nsteps: 1\n",
            "noise_multiplier has to be a finite number",
        ),
        (
            "a.yaml",
            "noise_multiplier: 1e999\nclip: 1\nsteps: 1\n",
            "noise_multiplier has to be a finite number",
        ),
        (
            "a.yaml",
            f"noise_multiplier: {'9' * 400}\nclip: 1\nsteps: 1\n",
            "has to be a finite number",
        ),
        (
            "a.yaml",
            f"noise_multiplier: {'9' * 5000}\nclip: 1\nsteps: 1\n",
            "a value cannot be read",
        ),
        ("a.yaml", "noise_multiplier: -1\nclip: 1\nsteps: 1\n", "has to be at least 0, and is -1"),
        ("a.yaml", "noise_multiplier: yes\nclip: 1\nsteps: 1\n", "not true or false"),
        ("a.yaml", "noise_multiplier: 1\nclip: 0\nsteps: 1\n", "clip has to be above 0"),
        ("a.yaml", "noise_multiplier: 1\nclip: 1\n", "steps is missing"),
        ("a.yaml", "noise_multiplier: 1\nclip: 1\nsteps: 1.5\n", "steps has to be a whole number"),
        ("a.yaml", "noise_multiplier: 1\nclip: 1\nsteps: 1\nsample_rate: 2\n", "at most 1"),
        (
            "a.yaml",
            "noise_multiplier: 1\nclip: 1\nsteps: 1\nsampling: poison\n",
            "did you mean poisson?",
        ),
        ("a.yaml", "noise_multiplier: 1\nclip: 1\nsteps: 1\ndelta: 1\n", "delta has to be below 1"),
        ("a.yaml", "a: &a [1]\nb: *a\n", "line 1, anchors and aliases are not read"),
        ("a.yaml", "a: !!python/object/apply:os.system ['true']\n", "line 1, tags are not read"),
        ("a.yaml", "clip: 1\nclip: 2\n", "clip is given twice"),
        ("a.yaml", "? [1]\n: 2\n", "a key has to be a word"),
        ("a.yaml", "- 1\n", "has to be a mapping of keys"),
        ("a.yaml", "", "has to be a mapping of keys"),
        ("a.yaml", "a: [\n", "is not YAML that is read here"),
        ("a.yaml", "[" * 5000, "is nested too deeply"),
        ("a.yaml", "when: 2024-99-99\n", "a value cannot be read"),
        ("a.yaml", "epsilon: 3\n", "is no configuration that is known here"),
        ("a.json", '{"noise_multiplier": NaN}', "NaN is no number"),
        ("a.json", '{"clip": 1, "clip": 2}', "clip is given twice"),
        ("a.json", '{"clip": 1', "line 1 is not JSON"),
        ("a.json", '{"a": ' * 100_000, "is nested too deeply"),
        ("a.json", '{"task_result_filters": 3}', "task_result_filters has to be a list, not 3"),
        ("a.json", '{"filters": [{"args": {}}]}', "filters[0] has neither path nor name"),
        (
            "a.json",
            '{"filters": [{"name": "SVTPrivacy", "args": {"epsilom": 1}}]}',
            "did you mean epsilon",
        ),
        ("a.yaml", "mod: LocalDp\nclipping_norm: 1\n", "did you mean LocalDpMod?"),
        (
            "a.yaml",
            "num_sampled_clients: 10\nnum_clients: 5\nclipping_norm: 1\n",
            "more than num_clients",
        ),
        ("a.yaml", "max_grad_norm: 1\nsteps: 1\nlayers_with_noise: [a]\n", "not among layers"),
        (
            "a.yaml",
            "target_epsilon: 1\nnoise_multiplier: 1\nmax_grad_norm: 1\nsteps: 1\n",
            "not both",
        ),
        ("a.yaml", b"\xff\xfe\x00", "is not UTF-8 text (byte 0)"),
        ("a.yaml", b"a: 1\n" * 300_000, "is larger than"),
    ],
)
def test_bad_files_are_told_in_one_sentence(tmp_path, name, content, sentence):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = run(file)
    assert (code, out) == (2, ""), out + err
    assert sentence in err
    assert str(file) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name a file, or give"),
        (("nowhere.yaml",), "there is no such file"),
        ((HERE,), "there is no such file"),
        (("--noise-multiplier", "1", "--clip", "1"), "options: steps is missing"),
        (("--noise-multiplier", "nan", "--clip", "1", "--steps", "1"), "finite"),
        (("--clip", "1", HERE / "clean" / "plain.yaml"), "--clip is for plain numbers"),
        (("--rounds", "2", HERE / "clean" / "plain.yaml"), "rounds is in the file already"),
        (("--delta", "1e-5", HERE / "clean" / "svt.json"), "leave out --delta"),
        (("--rounds", "0", HERE / "clean" / "svt.json"), "rounds has to be above 0"),
    ],
)
def test_bad_arguments_are_told(arguments, sentence):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err


def damaged(rng):
    """A file of the tests with one value replaced."""
    found = read(rng.choice(FILES))
    values = [None, True, -1, 0, 1e-320, 1e308, 10**14, "x", "1e-5", [], [1], {}, {"a": 1}, 0.5]
    inner = found
    for _ in range(rng.randrange(3)):
        deeper = [v for v in inner.values() if isinstance(v, dict) and v]
        inner = rng.choice(deeper) if deeper else inner
    inner[rng.choice(list(inner))] = rng.choice(values)
    return found


def test_damaged_values_never_crash_it(tmp_path):
    rng = random.Random(0)
    file = tmp_path / "damaged.json"
    codes = set()
    for _ in range(150):
        text = json.dumps(damaged(rng))
        file.write_text(text)
        code, out, err = run(file)
        assert code in (0, 1, 2), text + err
        assert (err.count("\n") == 1) if code == 2 else (out and not err), text + err
        codes.add(code)
    assert codes == {0, 1, 2}
