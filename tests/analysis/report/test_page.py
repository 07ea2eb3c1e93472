"""The page that a results folder becomes, as text and in a browser."""

import base64
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from raymeta.analysis import write_report
from raymeta.analysis.report.rendering import (
    slug,
)
from tests.support.browser import chromium, executable

VOID = {"meta", "link", "img", "source"}
RUN = {
    "started": "2026-01-02T03:04:05+00:00",
    "command": ["/opt/venv/bin/raymeta", "compare", "--tasks", "a b"],
    "commit": "0123abcd-dirty",
    "machine": {"system": "Linux", "CPUs": 2},
    "versions": {"python": "3.12", "torch": "2.6"},
}
RECORD = {
    "tasks": {"digits": {"horizon": 100, "space": "Space(lr=…)", "settings": "<D>"}},
    "methods": {"tpe": "Tpe()", "random": "Random()", "forward": "Descent()"},
    "seeds": [0, 1],
    "budgets": {"digits": 200.0},
    "runs": [RUN],
}


class Reader(HTMLParser):
    """Checks that tags close in order; collects text, anchors, links, images, cells."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.images = [], set(), [], []
        self.text, self.rows = [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attrs:
            assert attrs["id"] not in self.ids
            self.ids.add(attrs["id"])
        if "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "img":
            self.images.append(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def folder(frame, tmp_path):
    """A finished comparison with all that a folder may hold."""
    failed = frame[frame["status"] == "failed"]
    frame.loc[failed.index, "failure"] = "<b>loss</b> is not finite"
    frame.to_parquet(tmp_path / "frame.parquet")
    (tmp_path / "comparison.json").write_text(json.dumps(RECORD))
    hashes = {"weights": "a" * 64, "data": "b" * 64, "batches": "c" * 64}
    of_all = {**hashes, "methods": ["tpe", "random", "forward"]}
    evidence = {"digits": {"0": of_all, "1": of_all}}
    skipped = {"task": "digits", "method": "implicit", "reason": "needs <inner> loss"}
    spending = {"skipped": [skipped], "mismatches": [], "flops": {"digits": 48.0}}
    (tmp_path / "spending.json").write_text(json.dumps(spending))
    (tmp_path / "evidence.json").write_text(json.dumps(evidence))
    grid = [
        {"task": "digits", "seed": 0, "inner_steps": t, "outer_loss": 1 + t * (x + y)}
        | {"hp/lr": x, "hp/momentum": y}
        for x in (0.01, 0.1, 1.0)
        for y in (0.0, 0.5)
        for t in (0, 100)
    ]
    pd.DataFrame(grid).to_parquet(tmp_path / "surface.parquet")
    frame.assign(**{"hp/momentum": 0.1}).to_parquet(tmp_path / "frame.parquet")
    curves = [
        {"task": "digits", "seed": 0, "method": "forward", "outer_step": k}
        | {"inner_steps": t, "outer_loss": 1 - 0.1 * k * t / 100, "hp/lr": 0.1}
        for k in (1, 2)
        for t in (0, 100)
    ]
    pd.DataFrame(curves).to_parquet(tmp_path / "curves.parquet")
    return tmp_path


def test_the_page_of_a_comparison(folder):
    files = write_report(folder)
    assert files[-1] == folder / "report.html"
    html = files[-1].read_text()
    found = read(html)
    text = " ".join(" ".join(found.text).split())
    for title in (
        "What was asked",
        "Ranking",
        "Differences, targets, areas",
        "Loss against evaluations",
        "Loss against seconds",
        "Hyperparameters on the way",
        "Loss surface",
        "Loss curves while learning",
        "Budget",
        "Failures",
        "Skipped",
        "Evidence of equal starts",
        "Reproduce it",
    ):
        assert slug(title) in found.ids
        assert f"#{slug(title)}" in found.links
    assert {link for link in found.links if link[0] != "#"} == {"data:,"}
    assert "raymeta compare --tasks 'a b'" in text
    assert "0123abcd , with uncommitted changes" in text
    assert "<b>loss" not in html  # escaped: a failure may say anything
    assert "<b>loss</b> is not finite" in text
    assert "charged to no method" in text
    assert "No method spent more than was asked." in text
    budgets = ["digits", "tpe", "black-box", "200", "200", "200", "100.0%", "2"]
    assert [*budgets, "20.00"] in found.rows
    assert ["digits", "1", "3", "a" * 12, "b" * 12, "c" * 12] in found.rows
    assert ["digits", "implicit", "needs <inner> loss"] in found.rows
    assert "They are the same for all methods." in text
    assert "digits 48.00" in text
    differences = next(row for row in found.rows if "difference" in row)
    row = next(r for r in found.rows if r[0] == "tpe" and len(r) == len(differences))
    cells = dict(zip(differences, row, strict=True))
    assert cells["difference"] == "+0.02500"  # of .3 - .2 and .4 - .45
    assert cells["seeds better"] == "1 of 2"
    assert cells["median to target"] == "150"
    # Two of curves, a profile, ranks, trajectories, a surface, a row, an animation.
    assert len(found.images) == 8
    for image in found.images:
        kind, content = re.match(
            r"data:image/([\w+]+)[^,]*,(.*)", image["src"]
        ).groups()
        start = {"svg+xml": b"<?xml", "gif": b"GIF8"}[kind]
        assert base64.b64decode(content).startswith(start)
        assert len(image["alt"]) > 20


def test_the_page_of_a_training(training, published, tmp_path):
    training.to_parquet(tmp_path / "frame.parquet")
    record = {"algorithm": "maml", "family": "sinusoid", "seeds": [0, 1]}
    record |= {"knobs": {"outer_lr": 0.001}, "finished": {"outer_steps": 200}}
    record |= {"published": [published], "runs": [RUN]}
    (tmp_path / "training.json").write_text(json.dumps(record))
    files = write_report(tmp_path)
    assert [file.name for file in files] == [
        "meta_loss.png", "meta_loss.svg", "report.html",
    ]  # fmt: skip
    found = read(files[-1].read_text())
    text = " ".join(" ".join(found.text).split())
    assert "Meta-training: 200 outer steps, 2 seeds; finished." in text
    assert "outer lr 0.001 outer steps 200" in text
    header = ["inner steps", "loss", "± (95 %)", "median"]
    assert [*header, "accuracy", "± of accuracy"] in found.rows
    # Means of 2 and 4, and of √(.3² + 1.3²).
    assert ["0", "3.000", "0.6671", "1.500", "0.5000", "0.01414"] in found.rows
    assert "published: 1.4 ± 0.2 after 1 step (Someone 2019, table 1" in text
    assert "2 outer updates were skipped" in text
    assert "raymeta compare --tasks 'a b'" in text
    (image,) = found.images
    assert re.search(r"training loss goes from \d+ to [12]99$", image["alt"])


def test_a_page_says_what_it_is_not_told(frame, tmp_path):
    frame.iloc[:2].to_parquet(tmp_path / "frame.parquet")  # no record, one method
    text = " ".join(read(write_report(tmp_path)[-1].read_text()).text)
    assert "Not recorded" in text
    assert "What was asked is not recorded." in text
    assert "0 of 1 studies finished" in text
    assert "Ranks over tasks" not in text
    assert "Loss surface" not in text


def test_an_empty_frame_has_a_page(frame, tmp_path):
    frame.iloc[:0].to_parquet(tmp_path / "frame.parquet")
    assert "No report yet" in write_report(tmp_path)[-1].read_text()


def test_unequal_starts_are_named(folder):
    hashes = {"weights": f"{'a' * 64} != {'d' * 64}", "methods": ["tpe", "random"]}
    (folder / "evidence.json").write_text(json.dumps({"digits": {"0": hashes}}))
    unfair = {"mismatches": ["digits, seed 0: weights differ"]}
    (folder / "spending.json").write_text(json.dumps(unfair))
    found = read(write_report(folder)[-1].read_text())
    assert "the same for all methods: digits, seed 0: weights differ." in "".join(
        found.text
    )
    assert ["digits", "0", "2", f"{'a' * 12} != {'d' * 12}"] in found.rows


def test_overspending_is_named(folder):
    record = RECORD | {"budgets": {"digits": 190.0}}
    (folder / "comparison.json").write_text(json.dumps(record))
    text = write_report(folder)[-1].read_text()
    assert "2 methods spent more than was asked" in text


def test_the_same_folder_has_the_same_page(folder):
    first = write_report(folder)[-1].read_bytes()
    assert write_report(folder)[-1].read_bytes() == first


@pytest.mark.skipif(executable() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
def test_a_browser_shows_the_page(folder, tmp_path_factory, scheme, width):
    report = write_report(folder)[-1]
    with chromium(str(tmp_path_factory.mktemp("profile"))) as shown:
        shown.resize(width, 900)
        shown.prefer(scheme)
        shown.open(report.as_uri())
        images = shown.value(
            "[...document.images].map(i => [i.complete, i.naturalWidth, i.alt])"
        )
        assert len(images) == 8
        assert all(done and size > 300 and alt for done, size, alt in images)
        assert shown.value("document.documentElement.scrollWidth") <= width
        assert shown.value("document.title") == "digits"
        paper = shown.value("getComputedStyle(document.body).backgroundColor")
        light = int(re.findall(r"\d+", paper)[0]) > 128
        assert light == (scheme == "light")
        requests = shown.said("Network.requestWillBeSent")
        addresses = {r["request"]["url"] for r in requests} - {report.as_uri()}
        assert all(address.startswith("data:") for address in addresses)
        assert shown.said("Log.entryAdded") == []
        assert shown.said("Runtime.exceptionThrown") == []
        assert shown.said("Runtime.consoleAPICalled") == []
        # What the contents lead to is there, and tables and figures can be scrolled to.
        broken = shown.value(
            "[...document.querySelectorAll('nav a')]"
            ".filter(a => !document.querySelector(a.hash)).length"
        )
        assert broken == 0
        png = shown.screenshot()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 50_000


def test_the_page_of_an_optimization_says_what_was_asked(frame, tmp_path):
    frame[frame["method"] == "forward"].to_parquet(tmp_path / "frame.parquet")
    record = {"task": "digits", "estimator": "forward", "budget": None, "runs": [RUN]}
    (tmp_path / "optimization.json").write_text(json.dumps(record))
    found = read(write_report(tmp_path)[-1].read_text())
    text = " ".join(" ".join(found.text).split())
    assert "Optimization: 1 method" in text
    assert "estimator forward budget automatic" in text
    assert "raymeta compare --tasks 'a b'" in text  # the command that was recorded
    assert slug("Differences, targets, areas") not in found.ids
    assert "black-box" not in text
