"""Which global names a statement binds, changes and refers to."""

import ast
import symtable

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")
# Modules and functions of which a call is no change that a learner's function depends on.
AS_THEY_ARE = {"torch", "plt", "checks", "plots", "np", "sys", "os", "display", "random", "warnings"}


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


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()
