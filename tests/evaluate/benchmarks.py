"""Small made-up files in the form of the benchmarks' own."""

import json
from pathlib import Path
from typing import Any

IFEVAL: list[dict[str, Any]] = [
    {
        "key": 1,
        "prompt": "Describe fog without commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
    {
        "key": 2,
        "prompt": "Describe rain in at least 2 sentences and add a postscript that starts with P.S.",
        "instruction_id_list": ["length_constraints:number_sentences", "detectable_content:postscript"],
        "kwargs": [{"relation": "at least", "num_sentences": 2}, {"postscript_marker": "P.S."}],
    },
    {
        "key": 3,
        "prompt": "Describe hail with the sign # at least 1 time.",
        "instruction_id_list": ["keywords:letter_frequency"],
        "kwargs": [{"letter": "#", "let_frequency": 1, "let_relation": "at least"}],
    },
]

GSM8K = [
    {"question": "Ann has 2 pens and buys 3. How many has she?", "answer": "2 + 3 = <<2+3=5>>5 pens.\n#### 5"},
    {"question": "Bob reads 4 pages a day. How many in 3 days?", "answer": "4 x 3 = <<4*3=12>>12.\n#### 12"},
]


def written(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)
