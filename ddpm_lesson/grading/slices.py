"""Which statements of a copy an exercise's function needs: its definition, and what that refers to. No training loops.

A function is run as it would be in the notebook, but the notebook is not run. From the definition of the exercise its
global names are followed to the statements that bind or change them, and from these on. A check's cell is never among
them: what a student made of it does not matter.
"""

import ast
import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ddpm_lesson.checks._stub import is_empty
from ddpm_lesson.grading.exercises import Exercise
from ddpm_lesson.grading.names import FUNCTION, HOLDING, Calls, changed, inside, names_in
from ddpm_lesson.grading.notebooks import Cell

COMPOUND = (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.Match, getattr(ast, "TryStar", ast.Try))
SWITCHES = ("set_default_dtype", "set_default_device", "set_grad_enabled", "set_default_tensor_type")


class Statement(NamedTuple):
    """One statement at the top of a cell.

    binds: global names that it makes or changes. needs: those that it refers to. later: those that functions in it
    refer to when they are called. changes: those that a call in it, which stands alone, may change.
    """

    at: int
    cell: Cell
    node: ast.stmt
    binds: frozenset[str]
    needs: frozenset[str]
    later: frozenset[str]
    changes: frozenset[str] = frozenset()

    def binds_anew(self, name: str) -> bool:
        """Whether nothing is left of what the name stood for: no loop or condition, and no change in place."""
        simple = FUNCTION | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom
        return isinstance(self.node, simple) and name not in changed(self.node) and name not in self.needs


class Definition(NamedTuple):
    """What a student handed in for an exercise. is_stub: nothing was written into it."""

    statement: Statement
    is_stub: bool


class Step(NamedTuple):
    """A statement to run. defines: it is the graded function's definition, or part of it."""

    cell: int
    node: ast.stmt
    binds: frozenset[str]
    defines: bool


class Plan(NamedTuple):
    """What to run for an exercise, in order. sources: of the cells that it is from.

    needs: the global names that all this refers to. below: those of them that only cells further below define.
    """

    steps: tuple[Step, ...]
    sources: dict[int, str]
    needs: frozenset[str]
    below: dict[str, int]


class Program:
    """The statements of a copy, and what in it defines each of these exercises."""

    def __init__(self, cells: Sequence[Cell], graded: Iterable[Exercise]):
        self.cells, self.graded = tuple(cells), {exercise.name: exercise for exercise in graded}
        found = list(_statements(self.cells, {exercise.check for exercise in self.graded.values()}))
        calls = Calls([statement.node for statement in found], self.graded)
        self.statements = [each._replace(changes=calls.change(each.node)) for each in found]
        self.definitions: dict[str, list[Definition]] = {name: [] for name in self.graded}
        self.asked: dict[str, list[int]] = {name: [] for name in self.graded}
        of_the_course = {"checks"}  # names that lead to a check, or to what one gave back
        for statement in self.statements:
            self._find_in(statement, of_the_course)

    def _find_in(self, statement: Statement, of_the_course: set[str]) -> None:
        node = statement.node
        if isinstance(node, FUNCTION | ast.ClassDef) and node.name in self.graded:
            self.definitions[node.name].append(Definition(statement, _is_stub(node)))
        if isinstance(node, ast.ImportFrom) and "checks" in (node.module or "").split("."):
            of_the_course |= statement.binds - self.graded.keys()
        if isinstance(node, COMPOUND):
            self._find_inside(statement, of_the_course)
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr):
            return
        parts = list(ast.walk(node))
        for check, call in _calls(parts):
            for name in (name for name, exercise in self.graded.items() if exercise.check == check):
                self.asked[name].append(statement.at)
                given = call.args[0] if call.args else next((word.value for word in call.keywords), None)
                if given is not None and not (isinstance(given, ast.Name) and given.id == name):
                    self._define(name, statement, given)
        if not isinstance(node.value, ast.Lambda) and _leads_to(parts, of_the_course):
            of_the_course |= statement.binds - self.graded.keys()
            return
        for name in _bound(node) & self.graded.keys():
            self.definitions[name].append(Definition(statement, _is_nothing(node.value)))

    def _find_inside(self, statement: Statement, of_the_course: set[str]) -> None:
        """Definitions in an `if`, a `try`, a `with` or a loop: each time the whole statement is taken.

        What is bound in a loop is taken for a variable of the loop; of other values names and lambdas can be functions.
        """
        stubs: dict[str, list[bool]] = {}
        loops = isinstance(statement.node, ast.For | ast.While)
        for node in inside(statement.node):
            if isinstance(node, FUNCTION | ast.ClassDef):
                stubs.setdefault(node.name, []).append(_is_stub(node))
            elif isinstance(node, ast.Assign | ast.AnnAssign) and not loops and _may_be_function(node.value):
                if not _leads_to(list(ast.walk(node)), of_the_course):
                    for name in _bound(node):
                        stubs.setdefault(name, []).append(_is_nothing(node.value))
        for name in stubs.keys() & self.graded.keys():
            self.definitions[name].append(Definition(statement, all(stubs[name])))

    def _define(self, name: str, statement: Statement, value: ast.expr) -> None:
        """What a check was called with is handed in under the exercise's name."""
        target = ast.copy_location(ast.Name(name, ast.Store()), statement.node)
        made = ast.copy_location(ast.Assign([target], value), statement.node)
        binds, needs, later = names_in(made)
        self.definitions[name].append(
            Definition(statement._replace(node=made, binds=binds, needs=needs, later=later), _is_nothing(value))
        )

    def chosen(self, name: str) -> Definition | None:
        """The definition that is graded: the last one that is no stub."""
        return next((each for each in reversed(self.definitions[name]) if not each.is_stub), None)

    def unreadable(self, name: str) -> Cell | None:
        """A cell that Python cannot read and that defines the exercise, after all others that do."""
        last = self.chosen(name)
        for cell in reversed(self.cells):
            if cell.tree is None and any(_begins(line, name) for line in cell.source.splitlines()):
                return cell if last is None or last.statement.cell.number < cell.number else None
        return None

    def end(self, name: str) -> int:
        """The place of the last statement that may be run: the end of the cell with the check, else of the copy."""
        chosen = self.chosen(name)
        at = [place for place in self.asked[name] if chosen is None or place >= chosen.statement.at]
        if not at or chosen is None:
            return len(self.statements) - 1
        cell = self.statements[at[0]].cell
        return max(statement.at for statement in self.statements if statement.cell is cell)

    def needed(self, name: str, passed: Iterable[str]) -> list[Statement]:
        """What to run for an exercise, in the order of the copy.

        passed: exercises whose own function was right: it is used again. Of others the course's own is, and their
        names lead nowhere.
        """
        end, own = self.end(name) + 1, {name, *passed}
        found: dict[int, Statement] = {}
        wanted = [(name, end)]
        for statement in self.statements[:end]:
            if _is_for_all(statement.node):
                found[statement.at] = statement
                wanted += [(need, statement.at) for need in statement.needs]
        seen = set()
        while wanted:
            if (want := wanted.pop()) in seen:
                continue
            seen.add(want)
            for statement in self._binding(*want, own):
                found[statement.at] = statement
                wanted += [(need, statement.at) for need in statement.needs]
                wanted += [(need, want[1]) for need in statement.later]  # when it is called
        return [found[at] for at in sorted(found)]

    def _binding(self, name: str, time: int, own: set[str]) -> list[Statement]:
        """What makes a name what it is before the statement at `time`: the last that binds it, and changes since."""
        if name not in self.graded:
            before = [s for s in self.statements[:time] if name in s.binds | s.changes]
            last = max((i for i, s in enumerate(before) if s.binds_anew(name)), default=0)
            return before[last:]
        if name not in own or not (chosen := self.chosen(name)):
            return []
        defined = [
            d.statement for d in self.definitions[name] if not d.is_stub and d.statement.at <= chosen.statement.at
        ]
        return defined + [s for s in self.statements[:time] if name in changed(s.node)]

    def plan(self, name: str, passed: Iterable[str]) -> Plan:
        """What `needed` finds, as it is handed to the process that runs it."""
        statements = self.needed(name, passed)
        own = {definition.statement.node for definition in self.definitions[name]}
        steps = tuple(Step(s.cell.number, s.node, s.binds, s.node in own) for s in statements)
        needs = frozenset().union(*(s.needs | s.later for s in statements))
        first = {each for s in self.statements[: self.end(name) + 1] for each in s.binds | s.changes}
        after = self.statements[self.end(name) + 1 :]
        below = {each: s.cell.number for s in reversed(after) for each in (needs - first) & s.binds}
        return Plan(steps, {s.cell.number: s.cell.source for s in statements}, needs, below)


def _statements(cells: Sequence[Cell], checks: set[str]) -> Iterator[Statement]:
    at = 0
    for cell in cells:
        for node in cell.tree.body if cell.tree else ():
            if "setup" in cell.tags and isinstance(node, ast.If | ast.Expr):
                continue  # the course's set-up cell: it may install something
            if isinstance(node, COMPOUND) and any(check in checks for check, _ in _calls(ast.walk(node))):
                node = _unchecked(node, checks)
            yield Statement(at, cell, node, *names_in(node))
            at += 1


def _unchecked(node: Any, checks: set[str]) -> Any:
    """The statement without the calls of these checks that it holds, as `try` around a whole cell does."""
    simple = isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr)
    if simple and any(check in checks for check, _ in _calls(ast.walk(node))):
        return ast.copy_location(ast.Pass(), node)
    if isinstance(node, FUNCTION | ast.ClassDef) or not isinstance(node, HOLDING):
        return node
    made = copy.copy(node)
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            setattr(made, name, [_unchecked(each, checks) for each in value])
    return made


def _is_for_all(node: ast.stmt) -> bool:
    """Whether every function depends on it: an import of all names, one of torch's switches."""
    if isinstance(node, ast.ImportFrom):
        return node.names[0].name == "*" or node.module == "__future__"
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in SWITCHES


def _calls(parts: Iterable[ast.AST]) -> Iterator[tuple[str, ast.Call]]:
    """The calls of checks among the parts of a statement, checks.q_sample(...), with the check's name."""
    for part in parts:
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            owner = part.func.value
            if "checks" in (getattr(owner, "id", None), getattr(owner, "attr", None)):
                yield part.func.attr, part


def _leads_to(parts: list[ast.AST], names: set[str]) -> bool:
    return any(
        (isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in names)
        or (isinstance(part, ast.Attribute) and part.attr == "checks")
        for part in parts
    )


def _bound(node: ast.Assign | ast.AnnAssign | ast.Expr) -> set[str]:
    """The names that an assignment binds: a = b = 1, a, b = 1, 2."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    parts = [part for target in targets for part in ast.walk(target)]
    return {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _may_be_function(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Tuple):
        return all(map(_may_be_function, value.elts))
    return isinstance(value, ast.Name | ast.Attribute | ast.Lambda)


def _is_nothing(value: ast.expr | None) -> bool:
    """Whether nothing was written: None, ..., a lambda of these, several of them, an annotation without a value."""
    if isinstance(value, ast.Tuple):
        return all(map(_is_nothing, value.elts))
    if isinstance(value, ast.Lambda):
        return is_empty([ast.Return(value.body)])
    return value is None or (isinstance(value, ast.Constant) and value.value in (None, ...))


def _is_stub(node: ast.stmt) -> bool:
    """As `checks._stub.is_stub` has it, of what stands in the cell."""
    if not isinstance(node, ast.ClassDef):
        return is_empty(getattr(node, "body", []))
    methods = [part for part in node.body if isinstance(part, FUNCTION)]
    rest = [part for part in methods if part.name != "__init__"] or methods
    return bool(rest) and all(is_empty(part.body) for part in rest)


def _begins(line: str, name: str) -> bool:
    words = line.replace("(", " ").replace(":", " ").replace("=", " = ").split()
    return words[:2] in (["def", name], ["class", name], [name, "="])
