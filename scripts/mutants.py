"""Mutation testing: change one thing of a module at a time and see whether its tests notice.

    python scripts/mutants.py                                   # every mutant of every module
    python scripts/mutants.py --sample 80 paddle_csrl/losses    # 80 of each file below a folder

Each mutant is a change of one operator, comparison, number, condition, statement, result or order
of arguments. A process of its own imports the changed module, forked from one that has imported
everything but the package, so that a mutant costs little more than its tests. It is killed if a
test fails, errs or does not end. Exit status 1 where fewer than ``--least`` percent are killed.

Of the libraries, mutmut leaves out functions with decorators (most of the losses) and cosmic-ray
imports Paddle anew for every mutant.
"""

import argparse
import ast
import copy
import faulthandler
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

#: The fast tests of every module, as arguments for pytest, the quickest first.
TESTS = {
    "paddle_csrl/losses/functional.py": [
        "tests/losses/test_relation_losses.py", "tests/losses/test_mmd_loss.py",
        "-k", "prototype or standardize or softmax or precision or gap or bad or zero"],
    "paddle_csrl/losses/mmd_loss.py": [
        "tests/losses/test_mmd_loss.py", "tests/losses/test_loss_properties.py", "-k", "mmd"],
    "paddle_csrl/losses/listwise_relation_loss.py": [
        "tests/losses/test_relation_losses.py", "-k", "not prototype and not standardize"],
    "paddle_csrl/losses/pairwise_relation_loss.py": [
        "tests/losses/test_relation_losses.py", "-k", "not Listwise and not prototype"],
    "paddle_csrl/losses/prototype_norm_loss.py": [
        "tests/losses/test_relation_losses.py", "tests/losses/test_loss_properties.py",
        "-k", "prototype"],
    "paddle_csrl/losses/cosine_regression_loss.py": [
        "tests/losses/test_cosine_regression_loss.py"],
    "paddle_csrl/metrics/zero_shot_evaluator.py": [
        "tests/metrics/test_evaluator.py", "tests/metrics/test_evaluator_properties.py"],
    "paddle_csrl/datasets/zero_shot.py": [
        "tests/datasets/test_zero_shot_properties.py", "tests/datasets/test_zero_shot_dataset.py"],
    "paddle_csrl/datasets/label_scan.py": [
        "tests/datasets/test_label_scan_properties.py", "tests/datasets/test_label_scan.py"],
}
#: Mutants that no test can kill, by module and what ``Mutant.name`` says, with the reason.
EQUIVALENT: dict[str, dict[str, str]] = {
    "paddle_csrl/metrics/zero_shot_evaluator.py": {
        "return np.where(union > 0, hits / np.maximum(union, 1), empty)  ->  "
        "return np.where(union > 0, hits / np.maximum(1, union), empty)": "a maximum has no order",
        **{f"dtype = np.min_scalar_type(bins ** 2 - 1)  ->  "
           f"dtype = np.min_scalar_type(bins ** {changed})": reason for changed, reason in {
               "2 + 1": "a wider type counts the same", "2 - 0": "a wider type counts the same",
               "3 - 1": "a wider type counts the same",
               "2 - 2": "257 and 65537 are prime"}.items()},
        "bins = most + 1  ->  bins = most + 2": "a bin more counts the same",
        "count = count_bytes if are_bytes and self.num_classes <= BYTES else _count_any  ->  "
        "count = count_bytes if are_bytes and self.num_classes < BYTES else _count_any":
            "both ways count the same",
        "return ids.astype(np.uint8) if _unsigned(ids).max(initial=0) < BYTES else ids  ->  "
        "return ids.astype(np.uint8) if _unsigned(ids).max(initial=1) < BYTES else ids":
            "1 fits as well",
        **{f"if unsigned.max(initial=0) > most: ...  ->  if unsigned.max({changed} most: ...":
           "what needs no clipping is clipped as well" for changed in ("initial=0) >=",
                                                                       "initial=1) >")},
        "unsigned = np.minimum(unsigned, unsigned.dtype.type(most))  ->  "
        "unsigned = np.minimum(unsigned.dtype.type(most), unsigned)": "a minimum has no order",
    },
    "paddle_csrl/datasets/zero_shot.py": {
        "if self._relabel.changes and (not 0 <= self.ignore_index <= _LARGEST_ID): ...  ->  "
        "if self._relabel.changes and (not 0 < self.ignore_index <= _LARGEST_ID): ...":
            "0 is a class and was refused as such",
    },
    "paddle_csrl/datasets/label_scan.py": {
        f"columns = columns or _Columns(*(np.zeros(0, code) for code in _CODES))  ->  columns = "
        f"columns or _Columns(*(np.zeros({size}, code) for code in _CODES))":
            "in other processes than the first one alone: tests/core/test_parallel.py"
        for size in (1, -1)},
    **{f"paddle_csrl/losses/{name}.py": {
        f"def __init__(self, {more}ignore_index: int=255): ...  ->  "
        f"def __init__(self, {more}ignore_index: int={other}): ...": "PaddleSeg gives it, unused"
        for other in (254, 256)} for name, more in {
            "prototype_norm_loss": "", "pairwise_relation_loss": "gamma: float=0.1, "}.items()},
}

_SWAPS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.BitXor: (ast.BitAnd,),
    ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)}


class Mutant(NamedTuple):
    """A changed module.

    Attributes:
        line (int): where it is changed.
        name (str): the place in the source, before and after.
        tree (ast.Module): the whole module.
    """

    line: int
    name: str
    tree: ast.Module


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    found = []
    for path, statement, node in _nodes(tree):
        for changed in _changes(node):
            mutated = copy.deepcopy(tree)
            parent = mutated
            for step in path[:-1]:
                parent = _step(parent, step)
            _put(parent, path[-1], changed)
            ast.fix_missing_locations(mutated)
            again: Any = mutated
            for step in path[:statement]:
                again = _step(again, step)
            original: Any = tree
            for step in path[:statement]:
                original = _step(original, step)
            found.append(Mutant(original.lineno, f"{_head(original)}  ->  {_head(again)}", mutated))
    return sorted(found, key=lambda mutant: mutant.line)


Path = tuple[tuple[str, int | None], ...]


def _nodes(tree: ast.Module) -> Iterator[tuple[Path, int, Any]]:
    """Every node that may change, with its path and how much of that leads to its statement."""
    def walk(node: ast.AST, path: Path, statement: int) -> Iterator[tuple[Path, int, Any]]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases", "type_params"):
                continue
            for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(child, ast.AST) or isinstance(child, _LEFT_OUT) \
                        or _is_text(child):
                    continue
                below = (*path, (field, place))
                own = len(below) if isinstance(child, ast.stmt) else statement
                yield below, own, child
                if not isinstance(child, ast.Raise):  # but for its presence, words
                    yield from walk(child, below, own)

    yield from walk(tree, (), 0)


_LEFT_OUT = (ast.Import, ast.ImportFrom, ast.JoinedStr, ast.expr_context)


def _is_text(node: ast.AST) -> bool:
    """A docstring or another text."""
    node = node.value if isinstance(node, ast.Expr) else node
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


def _changes(node: Any) -> Iterator[ast.AST]:
    """The node with one thing changed, once for each."""
    def changed(**fields: Any) -> ast.AST:
        other = copy.copy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp():
            yield from (changed(op=other()) for other in _SWAPS.get(type(node.op), ()))
        case ast.Compare():
            for place, op in enumerate(node.ops):
                for other in _SWAPS[type(op)]:
                    yield changed(ops=[*node.ops[:place], other(), *node.ops[place + 1:]])
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool()):
            yield changed(value=not node.value)
        case ast.Constant(value=int() | float()):
            yield from (changed(value=node.value + step) for step in (1, -1))
        case ast.Call() if len(node.args) > 1 and not any(
                isinstance(item, ast.Starred) for item in node.args[:2]):
            yield changed(args=[node.args[1], node.args[0], *node.args[2:]])
        case ast.IfExp() | ast.If() | ast.While():
            yield changed(test=_negated(node.test))
        case ast.comprehension():
            for place, test in enumerate(node.ifs):
                yield changed(ifs=[*node.ifs[:place], _negated(test), *node.ifs[place + 1:]])
    match node:
        case ast.Return(value=ast.expr()) if not _is_none(node.value):
            yield changed(value=ast.Constant(None))
        case ast.Assign() | ast.AugAssign() | ast.Expr() | ast.Raise() | ast.Continue() \
                | ast.Break():
            yield ast.copy_location(ast.Pass(), node)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _step(node: Any, step: tuple[str, int | None]) -> Any:
    field, place = step
    value = getattr(node, field)
    return value if place is None else value[place]


def _put(parent: Any, step: tuple[str, int | None], value: Any) -> None:
    field, place = step
    if place is None:
        setattr(parent, field, value)
    else:
        getattr(parent, field)[place] = value


def _head(node: ast.stmt) -> str:
    """A statement in one line, without the block it leads."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With,
                         ast.Try)):
        node = copy.copy(node)
        node.body = [ast.Expr(ast.Constant(...))]
        for rest in ("orelse", "finalbody"):
            if hasattr(node, rest):
                setattr(node, rest, [])
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


# Running them.

class _Finder(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one module from a changed tree."""

    def __init__(self, module: str, path: str, tree: ast.Module):
        super().__init__(module, path)
        self._tree = tree

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return (importlib.util.spec_from_file_location(name, self.path, loader=self)
                if name == self.name else None)

    def get_code(self, name: str) -> Any:
        return compile(self._tree, self.path, "exec")


def run_tests(module: str, tree: ast.Module, tests: Sequence[str]) -> int:
    """Run the tests with ``module`` made of ``tree``; pytest's exit status."""
    import hypothesis
    import pytest

    # What fails is not made smaller: that it fails is enough.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", derandomize=True, deadline=None,
                                         database=None, max_examples=10, phases=phases)
    name = module.removesuffix(".py").replace("/", ".")
    sys.meta_path.insert(0, _Finder(name, os.path.join(ROOT, module), tree))
    with tempfile.TemporaryDirectory() as folder:
        return pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
                            "--hypothesis-profile=mutants", f"--basetemp={folder}/tests", *tests])


def warm_up(tests: Sequence[str]) -> None:
    """Import what the tests import from outside of ``ROOT``, in the same order."""
    code = """if True:
        import os, pytest, sys
        pytest.main(["-q", "--collect-only", "-p", "no:xdist", *sys.argv[1:]])
        print()
        for name, module in sys.modules.items():
            file = os.path.realpath(getattr(module, "__file__", None) or sys.prefix)
            if not file.startswith(os.getcwd() + os.sep) or file.startswith(sys.prefix):
                print("outside", name)
        """
    text = subprocess.run([sys.executable, "-c", code, *tests], cwd=ROOT, text=True, check=True,
                          stdout=subprocess.PIPE).stdout
    for line in text.splitlines():
        if line.startswith("outside "):
            try:
                importlib.import_module(line.removeprefix("outside "))
            except Exception:  # what is made at run time and has no file
                pass


def start(call: Callable[[], int], time_limit: float) -> int:
    """Run a call in a forked process without words; its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        faulthandler.dump_traceback_later(time_limit, exit=True, file=open(os.devnull, "w"))
        status = int(call())
    finally:
        os._exit(status)


def finish(process: int) -> int:
    """Wait for a process, end what it has left running, and give its exit status."""
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return status


def survivors(module: str, mutants: Sequence[Mutant], tests: Sequence[str], time_limit: float,
              jobs: int) -> list[Mutant]:
    """The mutants whose tests all pass."""
    running: list[tuple[int, Mutant]] = []
    alive = []

    def reap() -> None:
        process, mutant = running.pop(0)
        if finish(process) == 0:
            alive.append(mutant)

    for mutant in mutants:
        if len(running) == jobs:
            reap()
        call = functools.partial(run_tests, module, mutant.tree, tests)
        running.append((start(call, time_limit), mutant))
    while running:
        reap()
    return alive


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="files or folders; default: all of the table")
    parser.add_argument("--sample", type=int, help="most mutants of a module, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--time_limit", type=float, default=120, help="seconds for one mutant")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--least", type=float, default=85, help="percent that must be killed")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    modules = [module for module in TESTS if not args.modules or any(
        module == given or module.startswith(given.rstrip("/") + "/") for given in args.modules)]
    sys.path[:0] = [ROOT]
    os.chdir(ROOT)
    warm_up(sorted({argument for module in modules for argument in TESTS[module]
                    if argument.endswith(".py")}))
    weak = 0
    for module in modules:
        with open(module, encoding="utf-8") as file:
            source = file.read()
        unchanged = functools.partial(run_tests, module, ast.parse(source), TESTS[module])
        if finish(start(unchanged, args.time_limit)):
            print(f"{module}: its tests fail without a change")
            return 1
        known = EQUIVALENT.get(module, {})
        mutants = [mutant for mutant in mutants_of(source) if mutant.name not in known]
        total = len(mutants)
        if args.sample is not None and args.sample < total:
            mutants = random.Random(args.seed).sample(mutants, args.sample)
        alive = survivors(module, mutants, TESTS[module], args.time_limit, args.jobs)
        share = 100 * (1 - len(alive) / max(len(mutants), 1))
        weak += share < args.least
        for mutant in sorted(alive, key=lambda mutant: mutant.line):
            print(f"  survives: {module}:{mutant.line}: {mutant.name}")
        print(f"{module}: {len(mutants) - len(alive)} of {len(mutants)} mutants killed "
              f"({share:.0f} %), of {total} there are, beside {len(known)} equivalent", flush=True)
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
