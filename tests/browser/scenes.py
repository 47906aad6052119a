"""A picture worth looking at, drawn by code."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw, ImageFilter


def landscape(width: int = 960, height: int = 640) -> Image.Image:
    """An evening over hills: sky, sun, three ranges, a lake and a boat."""
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for y in range(height):
        t = y / height
        draw.line(
            [(0, y), (width, y)], fill=(int(250 - 60 * t), int(170 + 30 * t), int(110 + 90 * t))
        )
    draw.ellipse([width * 0.6, height * 0.2, width * 0.74, height * 0.41], fill=(255, 236, 179))
    image = image.filter(ImageFilter.GaussianBlur(2))
    draw = ImageDraw.Draw(image)
    ranges = [
        (0.50, 60, 1.3, (138, 122, 148)),
        (0.60, 45, 2.1, (96, 104, 122)),
        (0.70, 30, 3.2, (56, 84, 88)),
    ]
    for base, swing, waves, colour in ranges:
        line = [
            (x, base * height - swing * math.sin(waves * math.pi * x / width + base * 9))
            for x in range(0, width + 8, 8)
        ]
        draw.polygon([*line, (width, height), (0, height)], fill=colour)
    draw.rectangle([0, height * 0.78, width, height], fill=(122, 146, 160))
    for n in range(40):
        x, y = (n * 197) % width, height * (0.8 + 0.19 * ((n * 61) % 40) / 40)
        draw.line([(x, y), (x + 70, y)], fill=(176, 190, 196), width=2)
    x, y = width * 0.28, height * 0.88
    draw.polygon([(x, y), (x + 110, y), (x + 88, y + 24), (x + 20, y + 24)], fill=(92, 52, 38))
    draw.polygon([(x + 52, y - 110), (x + 52, y - 8), (x + 104, y - 8)], fill=(248, 242, 226))
    return image
