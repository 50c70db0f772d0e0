"""Which global names a statement binds, changes and refers to."""

import ast
import builtins
import symtable
from collections.abc import Iterable, Iterator

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
HOLDING = ast.stmt | ast.excepthandler | ast.match_case  # what holds statements
COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")
# Modules and functions of which a call is no change that a learner's function depends on.
AS_THEY_ARE = {"torch", "plt", "checks", "plots", "np", "sys", "os", "display", "random", "warnings"}

# Libraries whose functions change nothing that they are given, but for those that are named so: nn.init.ones_.
PURE = {"ddpm_lesson", "torch", "numpy", "einops", "random", "matplotlib", "IPython", "ipywidgets", "tqdm", "warnings"}
IN_PLACE = {"shuffle", "copyto", "fill_diagonal", "setattr", "delattr", "next"}


def names_in(node: ast.stmt) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """The global names that a statement binds or changes, that it refers to, and that functions in it refer to."""
    try:
        table = symtable.symtable(ast.unparse(node), "<statement>", "exec")
    except (SyntaxError, ValueError, RecursionError):  # as `await` outside of a function
        return frozenset(), frozenset(), frozenset()
    symbols = table.get_symbols()
    bound = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported() or s.is_namespace()}
    needs = {s.get_name() for s in symbols if s.is_referenced()}
    later: set[str] = set()
    inside = [(part, needs) for part in table.get_children()]
    while inside:
        part, found = inside.pop()
        if part.get_type() != "class" and part.get_name() not in COMPREHENSIONS:
            found = later
        found.update(symbol.get_name() for symbol in part.get_symbols() if symbol.is_global())
        inside += [(child, found) for child in part.get_children()]
    return frozenset(bound | changed(node)), frozenset(needs), frozenset(later)


def changed(node: ast.stmt) -> set[str]:
    """Names whose objects a statement changes: x[0] = 1, x.a = 1, x.append(1)."""
    if isinstance(node, FUNCTION | ast.ClassDef | ast.Import | ast.ImportFrom):
        return set()
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute | ast.Subscript) and isinstance(part.ctx, ast.Store | ast.Del):
            found |= _root(part)
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            found |= _root(part.value.func) if isinstance(part.value.func, ast.Attribute) else set()
    return found - AS_THEY_ARE


def inside(node: ast.stmt) -> Iterator[ast.stmt]:
    """The statement, and those that it holds, as `if` and `for` do; not what stands in a function or a class."""
    waiting: list[ast.AST] = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.stmt):
            yield part
        if not isinstance(part, FUNCTION | ast.ClassDef):
            waiting += [each for each in reversed(list(ast.iter_child_nodes(part))) if isinstance(each, HOLDING)]


class Calls:
    """What the calls that stand alone in a copy, fill(x) or heapq.heappush(x, 1), change beside a method's object.

    Of a function that the copy defines its body says it, else the arguments are changed; but those of a library in
    PURE, of a method of an object, as in ax.plot(x), and of an exercise are not.
    """

    def __init__(self, statements: Iterable[ast.stmt], exercises: Iterable[str]):
        held = [part for node in statements for part in inside(node)]
        self.functions: dict[str, list[ast.FunctionDef]] = {}
        self.modules: dict[str, str] = {}  # what an import binds: the library that it comes from
        for part in held:
            if isinstance(part, ast.FunctionDef):
                self.functions.setdefault(part.name, []).append(part)
            if isinstance(part, ast.Import | ast.ImportFrom):
                of = getattr(part, "module", None)
                self.modules |= {(e.asname or e.name).split(".")[0]: (of or e.name).split(".")[0] for e in part.names}
        self.exercises = frozenset(exercises)
        self._known: dict[ast.FunctionDef, tuple[frozenset[str], frozenset[str]]] = {}

    def change(self, node: ast.stmt) -> frozenset[str]:
        """Names that the calls in a statement change or bind; none for a definition, which calls nothing yet."""
        found: set[str] = set()
        for part in inside(node):
            if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
                found |= self._by(part.value)
        return frozenset(found - AS_THEY_ARE)

    def _by(self, call: ast.Call) -> set[str]:
        found: set[str] = set()
        given = [*call.args, *(word.value for word in call.keywords)]
        if isinstance(call.func, ast.Name) and call.func.id in self.functions:
            for function in self.functions[call.func.id]:
                parameters, names = self._of(function)
                taken = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
                pairs = [*zip(taken, call.args, strict=False), *((word.arg, word.value) for word in call.keywords)]
                given = [value for name, value in pairs if name in parameters]
                found |= names.union(*map(_object, given))
        elif self._may_change(call.func):
            found = set().union(*map(_object, given))
        return found

    def _of(self, function: ast.FunctionDef) -> tuple[frozenset[str], frozenset[str]]:
        """Which of its parameters a function changes, and which global names it changes or binds."""
        if function in self._known:
            return self._known[function]
        self._known[function] = frozenset(), frozenset()  # while it calls itself
        held = [part for node in function.body for part in inside(node)]
        arguments = function.args
        parameters = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        stored = _stored(held)
        outer = {each for part in held if isinstance(part, ast.Global) for each in part.names}
        changes = set().union(*(changed(part) | self.change(part) for part in function.body))
        changes |= {
            part.target.id for part in held if isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name)
        }
        local = (stored | parameters) - outer
        self._known[function] = frozenset(changes & parameters), frozenset((changes - local) | (stored & outer))
        return self._known[function]

    def _may_change(self, function: ast.expr) -> bool:
        """Whether a function that the copy does not define may change its arguments."""
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        (root,) = _root(function) or {""}
        if isinstance(function, ast.Attribute) and root not in {*self.modules, *AS_THEY_ARE}:
            return isinstance(getattr(builtins, root, None), type)  # list.append(x, 1); else a method
        if name in IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            return True
        if root in self.modules:
            return self.modules[root] not in PURE and root not in AS_THEY_ARE
        return bool(root) and root not in AS_THEY_ARE | self.exercises and not hasattr(builtins, root)


def _stored(statements: Iterable[ast.stmt]) -> set[str]:
    """Names that these statements bind, without looking into others that they hold."""
    found = set()
    for node in statements:
        if isinstance(node, FUNCTION | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(each.asname or each.name).split(".")[0] for each in node.names}
        else:
            names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
            found |= {part.id for part in names if isinstance(part.ctx, ast.Store)}
    return found


def _object(argument: ast.expr) -> set[str]:
    """The name whose object an argument is a part of: x, x.weight, x[0], x.view(3); of f(x) none."""
    node = argument.value if isinstance(argument, ast.Starred) else argument
    while isinstance(node, ast.Attribute | ast.Subscript) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()
