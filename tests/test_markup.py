"""lab.markup: what foreign text and markup become."""

import pandas as pd
import pytest
from test_reports import display

from lab import markup, tables


def test_foreign_markup_is_reduced():
    kept = markup.sanitised(
        '<table class="lab-table x" id="a"><tr><td lang="ja" style="color:red">直接</td></tr>'
        "</table>"
        '<p class="lab-pass">a</p><h1>b</h1><img src="https://x.example/a.png">'
    )
    assert kept == (
        '<table><tbody><tr><td lang="ja">直接</td></tr></tbody></table>'
        '<p class="lab-pass">a</p>b<img alt="Image without a description">'
    )


def test_our_own_tables_pass_unchanged():
    own = display(
        tables.table(pd.DataFrame({"a": ["x" * 30], "b": [1.5]}, index=["r"]), caption="c")
    ).data["text/html"]
    kept = markup.sanitised(own)
    assert kept == own.partition("</style>")[2]


def test_what_looks_like_an_image_in_an_attribute_is_not_given_an_alternative():
    kept = markup.sanitised('<p title="<img onmouseover=x ">a</p><img title="a>b">')
    assert kept == (
        '<p title="&lt;img onmouseover=x ">a</p>'
        '<img alt="Image without a description" title="a&gt;b">'
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            '<audio controls preload="none" src="data:audio/wav;base64,UklGRg=="></audio>',
            '<audio controls="" preload="none" src="data:audio/wav;base64,UklGRg=="></audio>',
        ),
        ('<audio autoplay src="https://x.example/a.wav"></audio>', "<audio></audio>"),
        ('<audio src="data:text/html;base64,PGI+"></audio>', "<audio></audio>"),
        ('<audio src="data:image/png;base64,AAAA" onplay="x()"></audio>', "<audio></audio>"),
        (
            '<img alt="a" src="data:audio/wav;base64,UklGRg==">',
            '<img alt="a">',
        ),
    ],
    ids=["a recording", "remote", "a page", "an image", "a recording as an image"],
)
def test_recordings_are_played_from_the_page_itself(given, kept):
    assert markup.sanitised(given) == kept
