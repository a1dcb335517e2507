"""`--help` of each program describes every option, names the models and tells the defaults."""

import argparse
import importlib
import sys

import pytest

from tests.benchmarks.models import MODELS

PROGRAMS = [
    "ahead_of_time",
    "compile_cost",
    "kinds",
    "kinds_of_weights",
    "pass_scaling",
    "peers.__main__",
    "quantization_cost",
    "recurrent",
    "trained",
    "vision",
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_a_program_is_whole(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    seen = []
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self, *arguments):
        seen.extend(self._actions)
        return parse(self, *arguments)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(SystemExit, match=r"^0$"):
        importlib.import_module(f"tests.benchmarks.{program}").main()
    assert [action.dest for action in seen if not action.help] == []
    silent = {action.dest for action in seen if action.default and "(default" not in action.help}
    assert silent <= {"help"}
    if any(action.dest == "models" for action in seen):
        text = capsys.readouterr().out
        assert [name for name in MODELS if name not in text] == []
