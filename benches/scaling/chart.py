"""Line charts as SVG text: axes with ticks, units in the labels, a legend; nothing that runs.

In: series of points. Out: one SVG. Logarithmic axes have ticks at 1, 2 and 5 of each decade, or at
decades where there are many. Standard library only.
"""
import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 48, 92
COLOURS = ["#1f5fa8", "#c8501e", "#2e8540", "#7b4fa0", "#8a6d00"]


def short(value):
    """1500000 -> 1.5M, 0.25 -> 0.25."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return "%g%s" % (round(value / size, 2), unit)
    return "%g" % round(value, 3)


class Axis:
    """From values to places between two ends."""

    def __init__(self, values, is_log, start, end):
        self.is_log, self.start, self.end = is_log, start, end
        if is_log:
            low, high = math.log10(min(values)), math.log10(max(values))
            pad = max(0.05 * (high - low), 0.08)
            self.low, self.high = low - pad, high + pad
            self.ticks = self.log_ticks()
        else:
            # Costs begin at zero: a curve must not look steeper than it is.
            self.low, self.high = 0.0, max(values) * 1.12 or 1.0
            step = 10 ** math.floor(math.log10(self.high / 4))
            step *= next(m for m in (1, 2, 5, 10) if self.high / (step * m) <= 6)
            self.ticks = [step * n for n in range(int(self.high / step) + 1)]

    def log_ticks(self):
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
        ticks = [m * 10.0 ** d for d in decades for m in steps]
        return [t for t in ticks if self.low <= math.log10(t) <= self.high]

    def at(self, value):
        share = ((math.log10(value) if self.is_log else value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def line_chart(title, x_label, y_label, series, note="", log_x=True, log_y=False, ticks_x=None):
    """`series`: (name, [(x, y), ...]) each. `ticks_x`: instead of the axis's own."""
    series = [(name, sorted(points)) for name, points in series if points]
    xs = [x for _, points in series for x, _ in points]
    ys = [y for _, points in series for _, y in points]
    x_axis = Axis(xs, log_x, LEFT, WIDTH - RIGHT)
    y_axis = Axis(ys, log_y, HEIGHT - BOTTOM, TOP)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" '
           'font-family="sans-serif" font-size="12" fill="#222">' % (WIDTH, HEIGHT, WIDTH, HEIGHT),
           "<title>%s</title>" % escape(title), '<rect width="100%" height="100%" fill="#ffffff"/>',
           '<text x="%d" y="24" font-size="15" font-weight="bold">%s</text>' % (LEFT, escape(title))]
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        out.append('<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e2e2e2"/>' % (LEFT, y, right, y))
        out.append('<text x="%d" y="%.1f" text-anchor="end">%s</text>' % (LEFT - 8, y + 4, short(tick)))
    for tick in ticks_x or x_axis.ticks:
        x = x_axis.at(tick)
        out.append('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#888"/>' % (x, floor, x, floor + 5))
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%s</text>' % (x, floor + 19, short(tick)))
    out.append('<path d="M%d %dV%dH%d" fill="none" stroke="#888"/>' % (LEFT, TOP, floor, right))
    out.append('<text x="%d" y="%d" text-anchor="middle">%s</text>' % ((LEFT + right) // 2, floor + 40, escape(x_label)))
    middle = (TOP + floor) // 2
    out.append('<text x="20" y="%d" text-anchor="middle" transform="rotate(-90 20 %d)">%s</text>' % (
        middle, middle, escape(y_label)))
    legend = LEFT
    for at, (name, points) in enumerate(series):
        colour = COLOURS[at % len(COLOURS)]
        path = " ".join("%.1f,%.1f" % (x_axis.at(x), y_axis.at(y)) for x, y in points)
        out.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>' % (path, colour))
        for x, y in points:
            out.append('<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"><title>%s: %s, %s</title></circle>' % (
                x_axis.at(x), y_axis.at(y), colour, escape(name), short(x), short(y)))
        out.append('<circle cx="%d" cy="%d" r="4" fill="%s"/>' % (legend + 4, HEIGHT - 32, colour))
        out.append('<text x="%d" y="%d">%s</text>' % (legend + 14, HEIGHT - 28, escape(name)))
        legend += 34 + 7 * len(name)
    out.append('<text x="%d" y="%d" font-size="11" fill="#666">%s</text>' % (LEFT, HEIGHT - 10, escape(note)))
    return "\n".join([*out, "</svg>"]) + "\n"
