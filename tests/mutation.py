"""Mutation score: the code is changed a little, and then a test has to fail.

    python -m tests.mutation reduction --workers 2

mutmut makes the mutants, but its runner does not get on with JAX: here each is tested
in a process of its own, forked before JAX has started. See `tests/mutation.md`.
"""

import argparse
import difflib
import multiprocessing.pool
import os
import tempfile
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

import hypothesis
import jax
import libcst as cst
import libcst.matchers as m
import pytest
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode


# What is changed, the files of tests that have to see it, and which tests of those.
TARGETS = {
    "competition": ("nn/_competition.py", "competition slot_attention_mistakes", ""),
    "reduction": ("nn/_reduction.py", "reduction slot_attention_mistakes", ""),
    "attention": (
        "nn/_attention.py",
        "slot_attention_mistakes masks slot_attention",
        "mistakes or pairs or named or handed or one_slot or wins_nothing or own",
    ),
    "rand_index": ("metrics/_rand_index.py", "metrics soft_metrics", ""),
    "overlap": ("metrics/_overlap.py", "metrics soft_metrics", ""),
    "matched_slots": ("metrics/_matched_slots.py", "metrics adaptive", "match"),
    "average_precision": ("metrics/_average_precision.py", "average_precision", ""),
}
OPTIONS = """-x -p no:cacheprovider -o addopts=
    --hypothesis-profile=mutation -W ignore::pytest.PytestAssertRewriteWarning"""


def mutants_of(path: Path):
    """A new source, how it differs, and whether only the text of an error does."""
    code = path.read_text()
    visitor = MutationVisitor(mutation_operators, IgnoredCode(set(), set(), set()))
    module = cst.MetadataWrapper(cst.parse_module(code)).visit(visitor)
    errors = m.Raise() | m.Assign([m.AssignTarget(m.Name("call"))])
    checks = m.Call(m.Name(m.MatchRegex("check_.*")))
    parts = [(node, m.MatchIfTrue(bool)) for node in m.findall(module, errors)]
    parts += [(node, m.SimpleString()) for node in m.findall(module, checks)]
    texts = {text for node, kind in parts for text in m.findall(node, kind)}
    for change in visitor.mutations:
        # The body of a class, its fields for example, is not tried by mutmut either.
        if isinstance(change.contained_by_top_level_function, cst.FunctionDef):
            source = module.deep_replace(change.original_node, change.mutated_node).code
            lines = difflib.unified_diff(code.split("\n"), source.split("\n"), n=0)
            diff = "\n".join(map(str.rstrip, list(lines)[2:]))
            yield source, diff, change.original_node in texts


class Stop:
    """At the first failure: nobody reads what pytest would say about it."""

    def pytest_exception_interact(self):
        os._exit(1)


def run_tests(path: Path, source: str, files: str, chosen: str) -> None:
    """Test `source` in the place of what is at `path`; the process ends with it."""
    name = ".".join(path.with_suffix("").parts)
    get_code = SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda self, asked: (
        compile(source, path, "exec") if asked == name else get_code(self, asked)
    )
    generate = hypothesis.Phase.generate  # and never shrink
    hypothesis.settings.register_profile(
        "mutation", deadline=None, derandomize=True, max_examples=3, phases=[generate]
    )
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    tests = [f"tests/test_{file}.py" for file in files.split()]
    os._exit(pytest.main([*OPTIONS.split(), "-k", chosen, *tests], plugins=[Stop()]))


def survives(limit: float | None, *args) -> bool:
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=args)
    process.start()
    process.join(limit)
    process.kill()
    process.join()
    return process.exitcode == 0


def main(module: str, workers: int) -> None:
    file, *tests = TARGETS[module]
    path = Path("eqx_slots") / file
    mutants, killed = list(mutants_of(path)), {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:  # what is common compiles once
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        start = time.monotonic()
        if not survives(None, path, path.read_text(), *tests):
            raise SystemExit("The tests fail without a mutant.")
        limit = 60 + 3 * (time.monotonic() - start)
        test = lambda mutant: survives(limit, path, mutant[0], *tests)
        alive = multiprocessing.pool.ThreadPool(workers).imap(test, mutants)
        for (_, diff, is_text), lives in zip(mutants, alive):
            killed[is_text].append(not lives)
            if lives:
                print(diff, flush=True)
    for is_text, of in killed.items():
        print("Texts of errors:" if is_text else "Code:", sum(of), "of", len(of))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", choices=TARGETS)
    parser.add_argument("--workers", type=int, default=2)
    main(**vars(parser.parse_args()))
