"""scripts/mutants.py on a module of a few lines."""

import os
import subprocess
import sys

from mutants import mutants_of

SOURCE = '''"""Words stay."""
def clip(value, low=0):
    """And here."""
    if value < low:
        return low
    if value is None and low > 2 or low in (5,):
        raise ValueError(f"{value + 1} is bad", "x")
    total = max(value, low) + True
    return -total
'''

NAMES = [
    "2: def clip(value, low=0): ...  ->  def clip(value, low=1): ...",
    "2: def clip(value, low=0): ...  ->  def clip(value, low=-1): ...",
    "4: if value < low: ...  ->  if not value < low: ...",
    "4: if value < low: ...  ->  if value <= low: ...",
    "4: if value < low: ...  ->  if value > low: ...",
    "5: return low  ->  return None",
    "7: raise ValueError(f'{value + 1} is bad', 'x')  ->  pass",
    "8: total = max(value, low) + True  ->  pass",
    "8: total = max(value, low) + True  ->  total = max(value, low) - True",
    "8: total = max(value, low) + True  ->  total = max(low, value) + True",
    "8: total = max(value, low) + True  ->  total = max(value, low) + False",
    "9: return -total  ->  return None",
    "9: return -total  ->  return total",
]


def test_one_thing_is_changed_at_a_time():
    made = mutants_of(SOURCE)
    names = [f"{mutant.line}: {mutant.name}" for mutant in made]
    assert [name for name in names if not name.startswith("6:")] == NAMES
    condition = "if value is None and low > 2 or low in (5,): ..."
    changed = {name.partition("->  ")[2] for name in names if name.startswith("6:")}
    assert changed == {
        f"if not ({condition[3:-5]}): ...", "if (value is None and low > 2) and low in (5,): ...",
        "if (value is None or low > 2) or low in (5,): ...",
        *(condition.replace(*pair) for pair in [
            ("is None", "is not None"), ("> 2", ">= 2"), ("> 2", "< 2"), ("> 2", "> 3"),
            ("> 2", "> 1"), (" in (5,)", " not in (5,)"), ("(5,)", "(6,)"), ("(5,)", "(4,)")])}
    for mutant in made:
        compile(mutant.tree, "clip.py", "exec")
    assert mutants_of("x: int = f(*a, b)\nimport os\n'text'\n") == []


TOY = '''
def clip(value, low):
    if value < low:
        raise ValueError
    return max(value, low)

def wait(n):
    while n > 0:
        n -= 1
    return n
'''
# A loop without end sleeps until its time is over.
TESTS = '''
import time
from hypothesis import given, strategies as st
from toy import clip, wait

class Slow(int):
    def __gt__(self, other):
        time.sleep(0.01)
        return int(self) > other

    def __add__(self, other):
        return Slow(int(self) + other)

    def __sub__(self, other):
        return Slow(int(self) - other)

@given(st.integers(2, 9))
def test_clip(value):
    assert clip(value, 1) == value

def test_wait():
    assert wait(Slow(3)) == 0
'''


def test_what_no_test_notices_survives(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text(TESTS)
    swap = "return max(value, low)  ->  return max(low, value)"
    code = (f"import sys, mutants; mutants.ROOT = {str(tmp_path)!r}\n"
            "mutants.TESTS = {'toy.py': ['test_toy.py', '-k', 'clip or wait']}\n"
            f"mutants.EQUIVALENT = {{'toy.py': {{{swap!r}: 'of equal ones either will do'}}}}\n"
            "sys.exit(mutants.main(['--time_limit', '6', '--jobs', '4', '--least', '90']))")
    scripts = os.path.join(os.path.dirname(__file__), "..", "..", "scripts")

    def run():
        return subprocess.run([sys.executable, "-c", code], text=True, cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": scripts}, stdout=subprocess.PIPE)

    done = run()
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "  survives: toy.py:3: if value < low: ...  ->  if value <= low: ...",
        "  survives: toy.py:4: raise ValueError  ->  pass",
        "toy.py: 13 of 15 mutants killed (87 %), of 15 there are, beside 1 equivalent"]
    (tmp_path / "test_toy.py").write_text("def test_clip():\n    assert False\n")
    done = run()
    assert done.returncode == 1 and done.stdout == "toy.py: its tests fail without a change\n"
