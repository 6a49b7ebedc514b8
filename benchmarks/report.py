"""Tables and a roofline picture from what the benchmarks wrote: report.py FOLDER [--short].

Reads FOLDER/{frozen_products,low_rank_products,training_step}.json, writes FOLDER/tables.md and,
where there is gnuplot, FOLDER/roofline.svg. --short: of the first table alone.
"""

import json
import pathlib
import shutil
import subprocess
import sys

Results = dict[str, dict[str, float]]

SHAPES = ["256x256", "256x784", "1024x1024", "3072x768", "4096x4096"]


def read(path: pathlib.Path) -> Results:
    """Name of the benchmark -> its medians, with the spread of the time as "cv"."""
    results: Results = {}
    for run in json.loads(path.read_text())["benchmarks"]:
        entry = results.setdefault(run["run_name"], {})
        if run["aggregate_name"] == "median":
            entry |= {key: value for key, value in run.items() if isinstance(value, (int, float))}
        if run["aggregate_name"] == "cv":
            entry["cv"] = run["cpu_time"]
    return results


def percent(value: float) -> str:
    return f"{100 * value:.0f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["--:"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def span(values: list[float], digits: int = 2) -> str:
    """The range of some figures, or the one they all come to."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} - {high}"


def summary(products: Results, thin: Results, step: Results) -> str:
    """What the kernels were made for, each in one figure."""

    def of(kind: str, shape: str, ns: tuple[int, ...], figure: str) -> list[float]:
        return [products[f"{kind}/{shape}/{direction}/n:{n}"][figure]
                for direction in ("forward", "backward") for n in ns]

    def faster(other: str, n: int, time: str = "cpu_time") -> float:
        name = f"1024x1024/n:{n}"
        return step[f"{other}/{name}"][time] / step[f"lora/{name}"][time]

    def of_lora(ratio: int, n: int) -> float:
        name = f"1024x1024/n:{n}"
        return step[f"lora_plus_ratio_{ratio}/{name}"]["cpu_time"] / step[f"lora/{name}"]["cpu_time"]

    def threads(n: int) -> float:
        name = f"1024x1024/n:{n}"
        both = step[f"lora_two_threads/{name}/real_time"]["real_time"]
        return step[f"lora/{name}"]["real_time"] / both

    thin_names = ("h=sAx,z=sB'dy", "y+=Bh,dx+=A'z", "dB+=dyh',dA+=zx'")
    rows = [
        ["W x and W' dy, 1024 x 1024, two copies, n >= 8: of peak",
         span(of("packed_two", "1024x1024", (8, 32, 128, 512), "of_peak"))],
        ["the same with one copy, n >= 32: of peak",
         span(of("packed_one", "1024x1024", (32, 128, 512), "of_peak"))],
        ["W x and W' dy, 4096 x 4096, n = 8: of read bandwidth",
         span(of("packed_two", "4096x4096", (8,), "of_read_bandwidth"))],
        ["the same: of peak", span(of("packed_two", "4096x4096", (8,), "of_peak"))],
        ["thin products, 1024 rows, r = 8, n = 128: of peak",
         ", ".join(f"{thin[f'{name}/ours/rows:1024/r:8/n:128']['of_peak']:.2f}"
                   for name in thin_names)],
        ["LoRA step, 1024 x 1024, n = 128: of peak",
         f"{step['lora/1024x1024/n:128']['of_peak']:.2f}"],
        ["the same: Eigen's plain expressions / ours", f"{faster('eigen_plain', 128):.2f}"],
        ["n = 8: Eigen's plain expressions / ours", f"{faster('eigen_plain', 8):.2f}"],
        ["LoRA+ / LoRA, n = 8, 32, 128, 512",
         span([faster("lora_plus", n) for n in (8, 32, 128, 512)])],
        ["LoRA+ with ratio 1, 4, 16, 64 / LoRA, n = 128",
         ", ".join(f"{of_lora(ratio, 128):.2f}" for ratio in (1, 4, 16, 64))],
        ["one thread / two threads, n = 32, 128, 512",
         ", ".join(f"{threads(n):.2f}" for n in (32, 128, 512))],
    ]
    return table(["what", "measured"], rows)


def frozen(results: Results) -> str:
    kinds = ["packed_two", "packed_one", "eigen"]
    rows = []
    for shape in SHAPES:
        for n in (1, 4, 8, 32, 128, 512):
            row = [shape, str(n)]
            for kind in kinds:
                for direction in ("forward", "backward"):
                    row.append(percent(results[f"{kind}/{shape}/{direction}/n:{n}"]["of_peak"]))
            entry = results[f"packed_two/{shape}/forward/n:{n}"]
            row.append(percent(entry["of_read_bandwidth"]))
            rows.append(row)
    header = ["W", "n", "two copies: W x", "W' dy", "one copy: W x", "W' dy", "Eigen: W x", "W' dy",
              "two copies: of read bandwidth"]
    return table(header, rows)


def low_rank(results: Results) -> str:
    products = ["h=sAx,z=sB'dy", "y+=Bh,dx+=A'z", "dB+=dyh',dA+=zx'"]
    rows = []
    for n in (8, 128):
        for r in (1, 4, 8, 16, 64):
            row = [str(r), str(n)]
            for product in products:
                for kind in ("ours", "eigen"):
                    entry = results[f"{product}/{kind}/rows:1024/r:{r}/n:{n}"]
                    row.append(percent(entry["of_peak"]))
            rows.append(row)
    header = ["r", "n", "h, z: ours", "Eigen", "y += B h, dx += A' z: ours", "Eigen",
              "dB, dA: ours", "Eigen"]
    return table(header, rows)


def steps(results: Results) -> str:
    others = ["lora_plus", "lora_merged_plan", "lora_one_copy", "lora_unpacked", "eigen_plain",
              "eigen_unsloth_order", "eigen_nntrainer_order", "full_fine_tuning"]
    rows = []
    for shape in SHAPES:
        for n in (1, 8, 32, 128, 512):
            ours = results[f"lora/{shape}/n:{n}"]
            row = [shape, str(n), f"{ours['cpu_time'] / 1000:.1f}", f"{100 * ours['cv']:.1f}",
                   percent(ours["of_peak"])]
            for other in others:
                entry = results[f"{other}/{shape}/n:{n}"]
                row.append(f"{entry['cpu_time'] / ours['cpu_time']:.2f}")
            rows.append(row)
    header = ["W", "n", "LoRA, us", "spread, %", "of peak, %", "LoRA+", "merged plan", "one copy",
              "not packed", "Eigen", "Unsloth's order", "nntrainer's order", "full fine-tuning"]
    return table(header, rows)


def mlp(results: Results) -> str:
    rows = []
    for n in (1, 64, 256):
        for kind in ("full_fine_tuning", "lora", "lora_plus"):
            entry = results[f"mlp_{kind}/n:{n}"]
            rows.append([kind.replace("_", " "), str(n), f"{entry['cpu_time'] / 1000:.1f}",
                         f"{100 * entry['cv']:.1f}", percent(entry["of_peak"]),
                         f"{entry['bytes_held'] / 1024:.0f}"])
    return table(["step", "n", "us", "spread, %", "of peak, %", "KiB held"], rows)


def roofline(results: Results, folder: pathlib.Path) -> None:
    """GFLOP/s against the operations for each byte of W that is read, n / 2 in float."""
    entry = results["packed_two/4096x4096/forward/n:8"]
    peak = entry["GFLOP/s"] / entry["of_peak"]
    bandwidth = entry["GFLOP/s"] / 4 / entry["of_read_bandwidth"]
    blocks, plots = [], [f"{peak:.1f} title 'multiply-add peak' with lines lc 'gray40' lw 2",
                         f"{bandwidth:.2f} * x title 'read bandwidth' with lines lc 'gray60' lw 2"]
    curves = [("packed_two", "1024x1024", "packed, 1024 x 1024"),
              ("packed_two", "4096x4096", "packed, 4096 x 4096"),
              ("eigen", "1024x1024", "Eigen, 1024 x 1024"),
              ("eigen", "4096x4096", "Eigen, 4096 x 4096")]
    for index, (kind, shape, title) in enumerate(curves):
        lines = []
        for n in (1, 4, 8, 32, 128, 512):
            rate = results[f"{kind}/{shape}/forward/n:{n}"]["GFLOP/s"]
            lines.append(f"{n / 2} {rate:.2f}")
        blocks.append(f"$d{index} << EOD\n" + "\n".join(lines) + "\nEOD\n")
        plots.append(f"$d{index} title '{title}' with linespoints lw 2 pt {5 + index}")
    script = "".join(blocks) + f"""
set terminal svg size 760,440 font 'sans,13' background 'white'
set output '{folder / "roofline.svg"}'
set logscale xy 2
set xrange [0.4:320]
set yrange [2:{2 * peak:.0f}]
set grid lc 'gray90'
set key right bottom
set xlabel 'operations for each byte of W'
set ylabel 'GFLOP/s, one thread'
set title 'y = W x in float: n = 1, 4, 8, 32, 128, 512 samples'
plot """ + ", \\\n     ".join(plots) + "\n"
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    short = "--short" in sys.argv[2:]
    products, thin, step = (read(folder / f"{name}.json") for name in
                            ("frozen_products", "low_rank_products", "training_step"))
    sections = [("In short", summary(products, thin, step))]
    if not short:
        sections += [
            ("Frozen products, share of the multiply-add peak in %", frozen(products)),
            ("Thin products, rows = 1024, share of peak in %", low_rank(thin)),
            ("A training step of one layer, r = 8; times relative to LoRA", steps(step)),
            ("A training step of 784-256-256-10", mlp(step))]
    text = "\n".join(f"### {title}\n\n{body}" for title, body in sections)
    (folder / "tables.md").write_text(text)
    print(text)
    if not short and shutil.which("gnuplot"):
        roofline(products, folder)


if __name__ == "__main__":
    main()
