"""Catalogues of other sizes made from the portrait one: fewer tags, or the same rules again.

In: a number of tags. Out: a folder with a catalogue; `tagloom check --write` gives it its ids.lock.
Fewer tags are an even choice, so that the mix of kinds stays. More tags are the rules under other
names with other thresholds, so that no two have the same work to share. All features stay.
Standard library only.
"""
import os
import re
import shutil
import subprocess

import measured

RULES = os.path.join("rules", "00_tags.yaml")
CUTS = re.compile(r"^(  cuts: \[)(.*)(\])$", re.M)
AGAINST = re.compile(r"( (?:>=|<=|>|<|=) )(\d+)\b")


def shifted(rule, copy):
    """The same rule under another name, with every threshold moved by the copy's number."""
    is_ratio = "\nratio:\n" in rule

    def cuts(found):
        # A ratio's cuts are thousandths: half of one a copy.
        moved = [("%.4f" % (float(c) + copy * 0.0005)) if is_ratio else str(int(c) + copy)
                 for c in found.group(2).split(", ")]
        return found.group(1) + ", ".join(moved) + found.group(3)
    rule = re.sub(r"^tag: (\w+)$", lambda m: "tag: %s_copy_%d" % (m.group(1), copy), rule, count=1, flags=re.M)
    if "\nexpr: " in rule:
        head, expr = rule.split("\nexpr: ", 1)
        return head + "\nexpr: " + AGAINST.sub(lambda m: m.group(1) + str(int(m.group(2)) + copy), expr)
    return CUTS.sub(cuts, rule)


def write(binary, folder, tags, change=None):
    """Writes a catalogue with so many tags. `change`: (old, new) in the text of its rules."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(measured.CATALOG, folder)
    path = os.path.join(folder, RULES)
    with open(path) as file:
        head, text = file.read().split("\n", 1)
    rules = [rule.rstrip("\n") + "\n" for rule in text.split("---\n")]
    if tags <= len(rules):
        chosen = [rules[at * len(rules) // tags] for at in range(tags)]
    else:
        chosen = [rule if copy == 0 else shifted(rule, copy)
                  for copy in range(-(-tags // len(rules))) for rule in rules][:tags]
    text = "---\n".join(chosen)
    if change:
        if change[0] not in text:
            raise ValueError("no rule has %r" % change[0])
        text = text.replace(*change)
    with open(path, "w") as file:
        file.write(head + "\n" + text)
    if tags != len(rules):
        os.remove(os.path.join(folder, "ids.lock"))
    subprocess.run([binary, "check", "--write", "--catalog", folder], check=True, stdout=subprocess.DEVNULL)
    return folder
