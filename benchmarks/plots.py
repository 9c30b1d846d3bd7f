"""Results as plots in SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .tables import WORKLOADS


def use_svg(name: str) -> None:
    """Let the same picture be the same file: no random ids, text as text."""
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9})


def draw(result: Mapping[str, Any], directory: Path, name: str) -> list[Path]:
    """Write a plot of the ratios of each route; return the files."""
    use_svg(name)
    files = []
    for route, workloads in result["routes"].items():
        file = directory / f"{name}_{re.sub('[^a-z0-9]+', '_', route)}.svg"
        plot(result, route, workloads, file)
        files.append(file)
    return files


def plot(result: Mapping[str, Any], route: str, workloads: Mapping[str, Any], file: Path) -> None:
    """Draw the ratios of a route as bars, with the quartiles, in a panel for each workload."""
    titles = {name: each["title"] for name, each in result["candidates"].items()}
    figure = Figure(figsize=(9, 2 + 1.9 * len(workloads)), layout="constrained")
    panels = figure.subplots(len(workloads), 1, squeeze=False)[:, 0]
    for panel, (workload, outcomes) in zip(panels, workloads.items(), strict=True):
        ran = {name: each for name, each in outcomes.items() if "not_run" not in each}
        names = [name for name in titles if name in ran][::-1]
        panel.set_title(f"{WORKLOADS[workload]}, {route}: p50 as a ratio to stock", loc="left")
        if not names:
            continue
        lows, middles, highs = zip(*(ran[name]["p50_ratio"] for name in names), strict=True)
        errors = [
            [middle - low for middle, low in zip(middles, lows, strict=True)],
            [high - middle for middle, high in zip(middles, highs, strict=True)],
        ]
        colors = ["#c2571a" if name.startswith("with_tenantry") else "#8a94a6" for name in names]
        panel.barh([titles[name] for name in names], middles, xerr=errors, color=colors)
        panel.axvline(1, color="black", linewidth=0.8)
        panel.margins(x=0.08)
    figure.savefig(file, metadata={"Date": None})


def draw_load(result: Mapping[str, Any], directory: Path) -> Path:
    """Write a plot of the requests per second of each workload; return the file."""
    use_svg("load")
    workloads = result["workloads"]
    figure = Figure(figsize=(9, 3.2 * len(workloads)), layout="constrained")
    panels = figure.subplots(len(workloads), 1, squeeze=False)[:, 0]
    for panel, (workload, candidates) in zip(panels, workloads.items(), strict=True):
        panel.set_title(f"{workload}: requests per second, by clients at once", loc="left")
        for name, figures in candidates.items():
            clients = [each["clients"] for each in figures]
            rates = [each["rps"] for each in figures]
            panel.plot(clients, rates, marker="o", label=result["candidates"][name])
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.legend()
    file = directory / "load.svg"
    figure.savefig(file, metadata={"Date": None})
    return file


def draw_growth(result: Mapping[str, Any], directory: Path, name: str) -> Path:
    """Write a plot of how the time of a read grows with each dimension; return the file."""
    use_svg(name)
    dimensions = result["dimensions"]
    rows = -(-len(dimensions) // 2)
    figure = Figure(figsize=(9, 2.8 * rows), layout="constrained")
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    for unused in panels[len(dimensions) :]:
        unused.remove()
    for panel, (dimension, found) in zip(panels, dimensions.items(), strict=False):
        sizes = [size for size, _ in found["steps"]]
        for each, exponent in found["exponents"].items():
            medians = [outcome[each]["microseconds"]["median"] for _, outcome in found["steps"]]
            panel.plot(sizes, medians, marker="o", label=f"{each}: e = {exponent:.2f}")
        panel.set_title(f"µs of a read, by {dimension}", loc="left")
        if max(sizes) > 10 * min(sizes):
            panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.legend()
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    return directory / f"{name}.svg"
