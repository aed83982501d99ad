"""Long checks of structured output that the test suite has in short.

usage: .ci/structured.py replies [COUNT]  COUNT (200) schemas of growing difficulty, SmolLM2 at temperature 1
       .ci/structured.py hostile          40 hostile schemas, expressions and grammars beside running streams
       .ci/structured.py speed            mask cost in a full batch, and forced tokens against one token a step

The JSON Schema Test Suite is a test of the engine (FOLDER being its tests/draft2020-12):
CANDLE_VLLM_JSON_SCHEMA_SUITE=FOLDER cargo test -p candle-vllm-engine suite -- --nocapture

Each prints what it found and ends with an error where a promise is broken.
"""

import json
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema

from candle_vllm import ConfigError, GenerationParams, InferenceEngine, QueueFullError
from candle_vllm.errors import CandleVllmError


def engine(**settings: Any) -> InferenceEngine:
    """SmolLM2 for 16 at once."""
    builder = InferenceEngine.builder().model_path("smollm2").max_batch_size(16).max_sequence_length(2048)
    for name, value in settings.items():
        getattr(builder, name)(value)
    return builder.build()


# --- replies ---------------------------------------------------------------------------------------------------------


def schema(random_: random.Random, depth: int) -> dict[str, Any]:
    """A schema that grows with `depth`: bounded scalars, objects, arrays, alternatives, references."""
    scalars: list[dict[str, Any]] = [
        {"type": "string", "maxLength": random_.randint(3, 20)},
        {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
        {"type": "string", "format": random_.choice(["date", "uuid", "ipv4", "email", "time"])},
        {"type": "integer", "minimum": -random_.randint(0, 99), "maximum": random_.randint(1, 9999)},
        {"type": "number", "exclusiveMinimum": 0, "maximum": random_.randint(1, 100)},
        {"type": "integer", "multipleOf": random_.randint(2, 9), "minimum": 0, "maximum": 1000},
        {"type": "boolean"},
        {"type": ["null", "boolean"]},
        {"enum": ["red", "green", 7, None, 2.5, ["x"]]},
        {"const": {"kind": "fixed", "n": random_.randint(0, 9)}},
    ]
    if depth == 0:
        return random_.choice(scalars)
    parts = [schema(random_, random_.randint(0, depth - 1)) for _ in range(random_.randint(1, 4))]
    names = random_.sample(["name", "age", "city code", "größe", "tags", "x/y", "a", "b"], len(parts))
    properties = dict(zip(names, parts, strict=True))
    required = random_.sample(names, random_.randint(1, len(names)))
    return random_.choice(
        [
            {"type": "object", "properties": properties, "required": required, "additionalProperties": False},
            {"type": "object", "properties": properties, "required": names, "additionalProperties": False},
            {"type": "array", "items": parts[0], "minItems": 1, "maxItems": random_.randint(1, 4)},
            {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)},
            {"anyOf": parts},
            {
                "allOf": [
                    {"type": "object", "required": required},
                    {"properties": properties, "additionalProperties": False},
                ]
            },
            {
                "type": "object",
                "patternProperties": {"^k[0-9]$": parts[0]},
                "additionalProperties": False,
                "maxProperties": 3,
            },
            {"$ref": "#/$defs/tree"},
        ]
    )


def with_tree(body: dict[str, Any]) -> dict[str, Any]:
    """The schema with the definition that it may refer to."""
    tree = {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}},
        "required": ["v"],
        "additionalProperties": False,
    }
    return {**body, "$defs": {"tree": tree}} if "$ref" in json.dumps(body) else body


def replies(count: int) -> int:
    """Whether finished replies validate; how many do not."""
    random_ = random.Random(7)
    schemas = [with_tree(schema(random_, 1 + n * 4 // count)) for n in range(count)]
    prompt = "<|im_start|>user\nAnswer in JSON that fits this schema: {}<|im_end|>\n<|im_start|>assistant\n"
    failed, finished = [], 0
    with engine() as model:
        params = [
            GenerationParams(max_tokens=400, temperature=1.0, seed=n, json_schema=body)
            for n, body in enumerate(schemas)
        ]
        started = time.perf_counter()
        outputs = model.generate([prompt.format(json.dumps(body)) for body in schemas], params)
        seconds = time.perf_counter() - started
    for body, output in zip(schemas, outputs, strict=True):
        if output.finish_reason == "length":
            continue
        finished += output.finish_reason == "stop"
        try:
            if output.finish_reason != "stop":
                raise ValueError(f"ended by {output.finish_reason}: {output.stop_reason}")
            jsonschema.validate(json.loads(output.text), body, cls=jsonschema.Draft202012Validator)
        except (ValueError, jsonschema.ValidationError) as error:
            failed.append((body, output.text, str(error).splitlines()[0]))
    for body, text, error in failed:
        print(json.dumps(body), repr(text), error, sep="\n", end="\n\n")
    print(f"{count} schemas in {seconds:.1f} s: {finished} finished, {len(failed)} failed, the rest were cut off")
    return len(failed)


# --- hostile ---------------------------------------------------------------------------------------------------------


def nested(keyword: str, depth: int) -> Any:
    """Schemas within schemas."""
    body: Any = {"type": "integer"}
    for _ in range(depth):
        body = {keyword: [body, {"type": "string"}]}
    return body


def hostile() -> list[tuple[str, dict[str, Any]]]:
    """40 forms that ask for more than there is."""
    big = {f"p{n}": {"type": "string", "pattern": f"^{'(a|b)*' * 5}{n}$"} for n in range(2000)}
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {"minimum": 1}}
    wide = {f"e{n}": {"anyOf": [{"$ref": f"#/$defs/e{n + 1}"}] * 2} for n in range(40)} | {"e40": {"type": "null"}}
    objects = [{"type": "object", "properties": {f"k{n}": {"const": n}}, "required": [f"k{n}"]} for n in range(400)]
    found: list[tuple[str, dict[str, Any]]] = [
        (f"{keyword} nested {depth} deep", {"json_schema": nested(keyword, depth)})
        for keyword in ("oneOf", "anyOf", "allOf")
        for depth in (20, 60, 90)
    ]
    found += [
        ("reference to itself", {"json_schema": {"$ref": "#"}}),
        (
            "references in a ring",
            {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}},
        ),
        ("ring of allOf", {"json_schema": {"allOf": [{"$ref": "#"}, {"type": "object"}]}}),
        ("ring of anyOf", {"json_schema": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}),
        ("endless object", {"json_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}}),
        ("allOf that doubles", {"json_schema": {"$ref": "#/$defs/d0", "$defs": doubling}}),
        ("anyOf that doubles", {"json_schema": {"$ref": "#/$defs/e0", "$defs": wide}}),
        ("oneOf of 400 objects", {"json_schema": {"oneOf": objects}}),
        ("allOf of 400 objects", {"json_schema": {"allOf": objects}}),
        ("2,000 patterns", {"json_schema": {"type": "object", "properties": big}}),
        ("1 MB of properties", {"json_schema": {"properties": {f"{n:0>40}": {} for n in range(20000)}}}),
        ("1 MB of enum", {"json_schema": {"enum": [f"{n:0>40}" for n in range(20000)]}}),
        ("400 kB of enum", {"json_schema": {"enum": [f"{n:0>40}" for n in range(8000)]}}),
        (
            "maxItems in maxItems",
            {
                "json_schema": {
                    "items": {"items": {"items": {"type": "null"}, "minItems": 9999}, "minItems": 9999},
                    "minItems": 9999,
                }
            },
        ),
        (
            "long strings",
            {"json_schema": {"type": "string", "minLength": 9999, "maxLength": 10000, "pattern": "^(ab?c?)*$"}},
        ),
        ("multipleOf a prime", {"json_schema": {"type": "integer", "multipleOf": 999983}}),
        ("multipleOf a fraction", {"json_schema": {"type": "number", "multipleOf": 1e-9}}),
        (
            "many optional properties",
            {
                "json_schema": {
                    "properties": {f"q{n}": {"type": "integer"} for n in range(3000)},
                    "additionalProperties": False,
                }
            },
        ),
        ("repeat of repeat of repeat", {"regex": "((a{1,1000}){1,1000}){1,1000}"}),
        ("a million", {"regex": "a{1000000}"}),
        ("optional a, n times, then a, n times", {"regex": "(a?){500}a{500}"}),
        ("(a+)+$", {"regex": "(a+)+b"}),
        ("(.*a){30}", {"regex": "(.*a.*){40}"}),
        ("[ab]*a[ab]{30}", {"regex": "[ab]*a[ab]{40}"}),
        ("(x+x+)+y", {"regex": "(x+x+)+y|(x|xx)*z"}),
        ("unicode classes", {"regex": r"(\w\W\d\D\s\S){200}"}),
        ("400 kB of alternatives", {"regex": "|".join(f"{n:x}" * 6 for n in range(30000))[:400_000].rstrip("|")}),
        ("4,096 choices", {"choice": [f"{n} " * 20 for n in range(4096)]}),
        ("a grammar that is ambiguous", {"grammar": 'start: e\ne: e e | "a" | e e e | '}),
        ("a grammar that never ends", {"grammar": 'start: a\na: "x" a'}),
        ("deep groups", {"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000}),
        ("repeats of a rule", {"grammar": 'root ::= (a{1,999}){1,999}\na ::= "x" | "(" root ")"'}),
    ]
    assert len(found) >= 40, len(found)
    return found


def resident() -> float:
    """MB of memory that this process holds."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def hostile_run() -> int:
    """How many hostile forms took more time or memory than they may."""
    broken = 0
    with engine() as model:
        model.generate("warm", GenerationParams(max_tokens=2, regex="[a-z]+"))
        gaps: list[float] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                last = time.perf_counter()
                for _ in model.stream("The sea is", GenerationParams(max_tokens=64, ignore_eos=True)):
                    now = time.perf_counter()
                    gaps.append(now - last)
                    last = now

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(3)
        quiet = statistics.median(gaps)
        gaps.clear()
        for name, form in hostile():
            before, started = resident(), time.perf_counter()
            try:
                output = model.generate("x", GenerationParams(max_tokens=8, seed=1, **form))
                outcome = str(output.finish_reason)
            except (ConfigError, QueueFullError) as error:
                outcome = f"refused: {str(error)[:90]}"
            except CandleVllmError as error:
                outcome = f"failed: {str(error)[:90]}"
            seconds, grown = time.perf_counter() - started, resident() - before
            bad = seconds > 3 or grown > 200
            broken += bad
            print(f"{'BAD ' if bad else ''}{name}: {seconds:.2f} s, {grown:+.0f} MB, {outcome}")
        done.set()
        reader.join()
    print(
        f"beside it: median gap between tokens {statistics.median(gaps) * 1e3:.1f} ms "
        f"({quiet * 1e3:.1f} quiet), worst {max(gaps) * 1e3:.0f} ms"
    )
    return broken


# --- speed -----------------------------------------------------------------------------------------------------------

RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        key: {
            "type": "object",
            "properties": {
                "identifier": {"type": "integer", "maximum": 99, "minimum": 0},
                "is_enabled": {"type": "boolean"},
            },
            "required": ["identifier", "is_enabled"],
            "additionalProperties": False,
        }
        for key in ("first_configuration", "second_configuration", "third_configuration", "fourth_configuration")
    },
    "required": ["first_configuration", "second_configuration", "third_configuration", "fourth_configuration"],
    "additionalProperties": False,
}
LINES: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 200}


def speed() -> int:
    """Whether masks cost too much or forced tokens gain too little."""
    free = GenerationParams(max_tokens=128, ignore_eos=True, seed=1)
    held = GenerationParams(max_tokens=128, seed=1, json_schema=LINES)
    # With log-probabilities nothing is taken that was not drawn: one token a step.
    forced = GenerationParams(max_tokens=400, seed=1, json_schema=RECORD)
    single = GenerationParams(max_tokens=400, seed=1, json_schema=RECORD, logprobs=0)
    prompts = ["Write a story."] * 16
    times: dict[str, list[float]] = {"free": [], "held": [], "forced": [], "single": []}
    with engine() as model:
        for round_ in range(6):
            for name, params, texts in (
                ("free", free, prompts),
                ("held", held, prompts),
                ("forced", forced, prompts[:1]),
                ("single", single, prompts[:1]),
            ):
                started = time.perf_counter()
                outputs = model.generate(texts, params)
                tokens = sum(len(output.tokens) for output in outputs)
                if round_:
                    times[name].append(tokens / (time.perf_counter() - started))
    rate = {name: statistics.median(rates) for name, rates in times.items()}
    # Of neighbours in time: the machine's own speed varies more than what is asked for.
    share = statistics.median(b / a for a, b in zip(times["free"], times["held"], strict=True))
    print({name: f"{value:.0f} tok/s" for name, value in rate.items()})
    print(f"16 together: {share:.3f} of free; forced against single: {rate['forced'] / rate['single']:.2f} x")
    return share < 0.95 or rate["forced"] < 1.3 * rate["single"]


def main() -> int:
    """Run what is asked for; how much is wrong."""
    match sys.argv[1:]:
        case ["replies", *count]:
            return replies(int(count[0]) if count else 200)
        case ["hostile"]:
            return hostile_run()
        case ["speed"]:
            return speed()
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
