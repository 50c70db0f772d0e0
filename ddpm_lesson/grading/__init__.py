"""Grading copies of the course's notebooks: what students wrote, judged by the course's own checks.

A copy is read as text and never run as a whole (`notebooks`). For each exercise the statements that its function needs
are chosen (`slices`, `names`). They run in a process of their own with limits (`limits`, `harness`), which the parent
watches (`judge`). `grades` puts verdicts together, `report` and `pages` write them down.
"""
