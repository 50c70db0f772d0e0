"""Pages of grades: HTML in one file each, readable light and dark, with nothing loaded from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape

from ddpm_lesson.grading.grades import STATUSES, Student, Verdict, all_numbers, mistakes_of

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #d0d0d0; --soft: #f3f3f3;
  --passed: #0072b2; --failed: #d55e00; --stopped: #a8487c; --not-attempted: #767676; --not-graded: #767676; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #161616; --line: #444; --soft: #242424;
  --passed: #56b4e9; --failed: #ff9a4d; --stopped: #e79cc5; --not-attempted: #a0a0a0; --not-graded: #a0a0a0; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .35rem .6rem .35rem 0; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; }
section { border-top: 1px solid var(--line); margin-top: 1.2rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin: 1.2rem 0 .4rem; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; white-space: pre-wrap; font-size: .85rem; }
a { color: var(--passed); } b.s { white-space: nowrap; }
.bar { display: flex; height: .8rem; min-width: 8rem; background: var(--soft); }
"""
STYLE += "".join(
    f".{status.replace(' ', '-')} {{ color: var(--{status.replace(' ', '-')}); }}\n"
    f".bar .{status.replace(' ', '-')} {{ background: var(--{status.replace(' ', '-')}); }}\n"
    for status in STATUSES
)
SIGNS = {"passed": "✓", "failed": "✗", "stopped": "!", "not attempted": "○", "not graded": "?"}


def page(title: str, body: str) -> str:
    """A whole document. title: text. body: HTML."""
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    head += f"<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def mark(status: str) -> str:
    return f'<b class="s {status.replace(" ", "-")}">{SIGNS[status]} {status}</b>'


def student_page(student: Student) -> str:
    """What a student reads: the verdict on each exercise, which mistake it names, and the code that was graded."""
    counts = ", ".join(f"{student.count(status)} {status}" for status in STATUSES if student.count(status))
    body = [f"<h1>{escape(student.name)}</h1>", f"<p>{counts or 'Nothing was graded.'}</p>"]
    for name, words in student.unread:
        body.append(f"<p><b>{escape(name)} was not read:</b> {escape(words)}</p>")
    body += [_verdict(verdict) for verdict in student.verdicts.values()]
    if student.by_hand:
        listed = ", ".join(f"{escape(number)} ({escape(kind)})" for number, kind in student.by_hand)
        body.append(f"<section><h2>Read by your instructor</h2><p>{listed}</p></section>")
    return page(f"{student.name}: feedback", "\n".join(body))


def _verdict(verdict: Verdict) -> str:
    lines = [f"<section><h2>{escape(verdict.number)} <code>{escape(verdict.name)}</code> {mark(verdict.status)}</h2>"]
    words, *table = verdict.words.split("\n")
    lines.append(f"<p>{escape(words)}</p>" if words else "")
    lines.append(f"<pre>{escape(chr(10).join(table))}</pre>" if table else "")
    lines += [f"<p>{escape(note)}</p>" for note in verdict.notes]
    if verdict.status != "passed" and verdict.source:
        where = f"code cell {verdict.cell} of {verdict.notebook}"
        lines.append(f"<details><summary>What was graded: {escape(where)}</summary>")
        lines.append(f"<pre>{escape(verdict.source)}</pre></details>")
    if verdict.output.strip() and verdict.status != "passed":
        lines.append(f"<details><summary>What it printed</summary><pre>{escape(verdict.output)}</pre></details>")
    return "\n".join([line for line in lines if line] + ["</section>"])


def class_page(students: Sequence[Student], pages: Mapping[str, str]) -> str:
    """What an instructor reads: how each exercise went, which mistakes were made by how many, and every student.

    pages: the address of each student's page, by name.
    """
    many = len(students)
    body = [f"<h1>Grades of {many} student{'s' * (many != 1)}</h1>", *_exercises(students), *_mistakes(students, pages)]
    by_hand = {number: kind for student in students for number, kind in student.by_hand}
    if by_hand:
        listed = ", ".join(f"{escape(number)} ({escape(kind)})" for number, kind in by_hand.items())
        body.append(f"<h2>Not graded by machine</h2><p>To be read: {listed}.</p>")
    body += ["<h2>Students</h2>", '<div class="wide"><table>']
    body.append(
        "<tr><th>student</th>" + "".join(f'<th class="n">{s}</th>' for s in STATUSES) + "<th>not read</th></tr>"
    )
    for student in students:
        counts = "".join(f'<td class="n">{student.count(status)}</td>' for status in STATUSES)
        unread = "; ".join(f"{escape(name)}: {escape(words)}" for name, words in student.unread)
        body.append(f"<tr><td>{_link(student.name, pages)}</td>{counts}<td>{unread}</td></tr>")
    return page("Grades of the class", "\n".join([*body, "</table></div>"]))


def _exercises(students: Sequence[Student]) -> list[str]:
    lines = ["<h2>Exercises</h2>", '<div class="wide"><table>', "<tr><th>exercise</th><th></th>"]
    lines[-1] += "".join(f'<th class="n">{status}</th>' for status in STATUSES) + "</tr>"
    for number, name in all_numbers(students).items():
        found = [student.verdicts[number].status for student in students if number in student.verdicts]
        bar = "".join(
            f'<span class="{status.replace(" ", "-")}" style="flex: {found.count(status)}"></span>'
            for status in STATUSES
            if found.count(status)
        )
        counts = "".join(f'<td class="n">{found.count(status)}</td>' for status in STATUSES)
        lines.append(
            f'<tr><td>{number} <code>{escape(name)}</code></td><td><div class="bar">{bar}</div></td>{counts}</tr>'
        )
    return [*lines, "</table></div>"]


def _mistakes(students: Sequence[Student], pages: Mapping[str, str]) -> list[str]:
    found, names = mistakes_of(students), all_numbers(students)
    lines = ["<h2>Who made which mistake</h2>"] if found else []
    for number, words in found.items():
        lines.append(f"<h3>{number} <code>{escape(names[number])}</code></h3><table>")
        for sentence, who in words.items():
            listed = ", ".join(_link(name, pages) for name in who)
            lines.append(f'<tr><td class="n">{len(who)}</td><td>{escape(sentence)}<br>{listed}</td></tr>')
        lines.append("</table>")
    return lines


def _link(name: str, pages: Mapping[str, str]) -> str:
    return f'<a href="{escape(pages[name])}">{escape(name)}</a>'
