"""Write tokenizer.json: python -m tests.reference.make_tokenizer, with diffusers, bs4 and ftfy installed.

It holds captions as diffusers cleans them. The imports are in the functions, so that the tests can ask for the public
vocabulary without those packages.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_name("tokenizer.json")

CAPTIONS = (
    "",
    "A cute cat",
    "  A Small   CACTUS\nwith a happy\tface  ",
    "a%20dog+and%20a caf%C3%A9",
    "see https://example.com/a/b?x=1&y=2 for more",
    "www.foo.org/bar and shop.co.uk, mail me@example.com",
    "www:foo or www:/bar",
    "<person> waves at <b>two</b> <person>s",
    "<p>one<br>two</p><script>alert(1)</script><!-- three --><style>p {}</style> four",
    "<ruby>word<rt>note</rt></ruby> and <template>hidden</template>",
    "a <!doctype html>b",
    "tom &amp; jerry &lt;3 &eacute;&#233;&#xe9; &nosuch; &copy 2020 &quot;hi&quot; &#150;",
    "&amp;lt;b&amp;gt;twice&amp;amp;",
    "1 < 2 and 3 > 2",
    "photo by @nick_name at noon",
    "a 日本 cat, アニメ and ㍿",
    "dash – dash — dash ― dash ‐ dash",
    "this-is-my-cute-cat",
    "this_is_my_cute_cat_photo",
    "a well-known black-and-white cat",
    "“double” «french» ‘single’ `tick` „low‟ ‚low‛",
    "‘‘twice’’ or ’twas",
    '"all of it is quoted"',
    "'it''s ''fine'''",
    "10.0.0.1 is home",
    "updated 12:30&nbsp;",
    "line one\\nline two",
    "#1 and #12345 but #1999 and 1234567",
    "IMG_0001.JPG a cat.png and cat.jpeg",
    "wait... what . ever",
    "***SALE*** (50%) [new] {x} |y| a\\b/c ~ ©2020™",
    "jc6640 jc6640vc 6640vc231 j2d1a2a",
    "free shipping! worldwide free shipping, free download free",
    "click for details and click on it, page 12 of png images",
    "a 512x768 poster, 1.5х2.5 m and 3×4",
    "colon : here ,comma.stop",
    "_leading and trailing-",
    ".hidden",
    "ﬁsh ŉ ĳs ｆｕｌｌ　ｗｉｄｔｈ ｱｲ e\u0301",
    "bell\x07 and mark\ufeff and next\x85line\u2028end",
    "＆lt;b＆gt;",
    "an oil painting of a fox in the style of monet, 4k, trending on artstation",
    "123456 and 12345 and 1234567 and 99999",
    "abc123 abcd123 ab12 a1234 a123456789012345 a1234567890123456",
    "wait..what, well.so",
    "ﬀ ﬃ ﬅ ﬆ ſt ʼn",
    "！ｎｏ！ ～ﾝ ﾟ ￦ ￮ ￯",
    "\x80 and \x96 and \x99 and \x9f",
    "a\x00b\x08c\x0bd\x0ee\x1ff\x7fg",
    "a\u206ab\u206fc\ufff9d\ufffce\ufefff\u2069g\u2070h",
    "\u31bf\u31c0 \u9fff\ua000",
    "‚a‛ ‘b’ „c‟ “d” ‗e",
    "<ruby>a<rp>from</rp><rt>b</rt><rp>to</rp></ruby> <style>c</style> d",
    "a.it b.edu c.gov d.ru/e f.com g.co h.net i.org j.info",
    "a.mp4 b.jpeg c.jpg d.bmp e.webp f.eps g.pdf h.apk i.gif mp4 images",
    "one-two-three one_two a-b_c-d",
    "a\"\"b ''c'' \"d\"",
    "12.34.56.78 and 1.2.3.4567, at 9:41 ",
)


def vocabulary() -> Path:
    """The public T5 vocabulary: $PIXART_FN_T5_VOCAB, or shared/t5-tokenizer/spiece.model beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "t5-tokenizer" / "spiece.model"
    return Path(os.environ.get("PIXART_FN_T5_VOCAB", beside))


def t5_tokenizer(model: bytes, **options: Any):
    """transformers' tokenizer over a SentencePiece model."""
    from transformers import T5Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "spiece.model").write_bytes(model)
        return T5Tokenizer.from_pretrained(folder, **options)


def t5_ids(tokenizer: Any, prompts: list[str], length: int) -> dict[str, list[list[int]]]:
    """The call that diffusers' PixArt makes."""
    options = {"padding": "max_length", "max_length": length, "truncation": True, "add_special_tokens": True}
    out = tokenizer(prompts, **options)
    return {"ids": out["input_ids"], "mask": out["attention_mask"]}


def cleaned(caption: str) -> str:
    """What diffusers' PixArt makes of a caption by default."""
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline.__new__(PixArtAlphaPipeline)  # no model is needed for its text functions
    return pipeline._text_preprocessing(caption, clean_caption=True)[0]


def main() -> None:
    rows = [{"text": text, "clean": cleaned(text)} for text in CAPTIONS]
    OUT.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
