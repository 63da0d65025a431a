# SPDX-License-Identifier: Apache-2.0
"""Takes the pictures of docs/studio.md and README.md anew: python tests/space/make_pictures.py"""

import io
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

# run as a script, it finds its neighbours as pytest does
sys.path.insert(0, str(Path(__file__).parents[1]))

from programs import REPOSITORY
from space import studio
from space.serving import Space, chromium, served
from space.studio import Browser, Page, expect
from vocals import EXAMPLE

PICTURES = REPOSITORY / "docs" / "studio"
WIDE = {"viewport": {"width": 1440, "height": 900}}
LAPTOP = {"viewport": {"width": 1280, "height": 800}}
SEED = "1"
COLOURS = 256


def save(page: Page, name: str) -> None:
    """Saves what is in view as docs/studio/NAME.png, in 256 colours."""
    screen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    screen.quantize(COLOURS).save(PICTURES / f"{name}.png", optimize=True)


def with_example(browser: Browser, space: Space, options: Mapping[str, object], style: str) -> Page:
    """The page with the first example and its stored band, and with a style and a seed chosen for the next band."""
    page = studio.open_page(browser, space, **options)
    page.get_by_role("button", name="Vocal", exact=True).click()
    expect(page.locator("#mixer .takes")).to_contain_text("Take 1")
    page.locator(f"#style input[value={style}]").check()
    studio.more(page)
    page.locator("#seed input").fill(SEED)
    return page


def fold(page: Page) -> None:
    """Closes the options, and shows the page from its top."""
    page.get_by_role("button", name="More options").click()
    page.evaluate("() => { scrollTo(0, 0); document.querySelector('#band').scrollTop = 0; }")


def generated_and_played(page: Page) -> None:
    """Generates, and waits until the band is heard after the announcement, so that all lanes are drawn."""
    studio.generated(page)
    page.wait_for_timeout(2000)


def take_pictures(browser: Browser, space: Space) -> None:
    """Takes and saves all pictures, each of a new page."""
    page = studio.open_page(browser, space, **LAPTOP)
    save(page, "empty")
    page.context.close()

    page = with_example(browser, space, WIDE, "soul")
    fold(page)
    studio.generate(page)
    expect(page.locator(".stems canvas")).to_have_count(4)
    expect(page.locator("#mixer .takes :checked")).to_have_count(0)
    page.wait_for_timeout(1500)
    save(page, "playing")
    expect(studio.announced(page)).to_contain_text("Done")
    page.wait_for_timeout(2000)
    studio.press(page, "Stop", "Bar 2")
    save(page, "selection")
    page.context.close()

    page = with_example(browser, space, {**WIDE, "color_scheme": "dark"}, "pop")
    fold(page)
    generated_and_played(page)
    save(page, "dark")
    page.context.close()

    page = with_example(browser, space, LAPTOP, "waltz")
    for name, bars in {"intro": "2", "outro": "1"}.items():
        page.locator(f"#{name}_bars input").fill(bars)
    fold(page)
    generated_and_played(page)
    save(page, "takes")
    page.context.close()

    page = studio.open_page(browser, space, **studio.PHONE)
    studio.upload(page, EXAMPLE)
    generated_and_played(page)
    save(page, "phone")
    page.context.close()


def main() -> None:
    """Takes the pictures with the bundled model, and prints the size of each file."""
    with tempfile.TemporaryDirectory() as folder:
        with served("hafm-tiny (bundled)", Path(folder)) as space, chromium(EXAMPLE) as browser:
            take_pictures(browser, space)
    for path in sorted(PICTURES.glob("*.png")):
        print(f"{path.name}, {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
