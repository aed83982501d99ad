//! How byte-level vocabularies cut a text into words before they merge, by GGUF's `tokenizer.ggml.pre`.
//! Each row is the pre-tokenizer of the model family's own tokenizer.json; names are llama.cpp's.
use fancy_regex::Regex;
use serde_json::Value;

use super::{
    class::{NUMBER, PUNCTUATION},
    words::{self, Scan},
};
use crate::{Error, Result};

/// One cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Each match of the expression is a word, and what is between.
    Cut(&'static str),
    /// Each digit is a word.
    Digit,
    /// A run of punctuation is a word.
    Punctuation,
    /// See `words.rs`.
    Gpt2,
    /// See `words.rs`.
    Llama { digits: usize, marks: bool },
    /// See `words.rs`.
    Tekken { digits: usize, contractions: bool },
    /// Runs of digits, each cut after three ASCII digits. Falcon does so after bytes have become letters, where some
    /// bytes of larger characters are digits too. Must come last.
    EncodedDigits,
}

/// What `tokenizer.ggml.pre` stands for.
#[derive(Debug)]
pub(super) struct Pre {
    steps: &'static [Step],
    /// Whether a word that is a token is taken whole, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with `bos` unless the metadata says otherwise.
    pub(super) add_bos: bool,
    /// Whether characters are composed first (Unicode's NFC), as transformers does for these families.
    pub(super) compose: bool,
}

use Step::{Cut, Digit, EncodedDigits, Gpt2, Llama, Tekken};

const GPT2: &[Step] = &[Gpt2];
const SMOLLM: &[Step] = &[Digit, Gpt2];
const FALCON: &[Step] = &[Step::Punctuation, Gpt2, EncodedDigits];
const LLAMA3: &[Step] = &[Llama {
    digits: 3,
    marks: false,
}];
const QWEN2: &[Step] = &[Llama {
    digits: 1,
    marks: false,
}];
const QWEN35: &[Step] = &[Llama {
    digits: 1,
    marks: true,
}];
const TEKKEN: &[Step] = &[Tekken {
    digits: 1,
    contractions: false,
}];
const GPT4O: &[Step] = &[Tekken {
    digits: 3,
    contractions: true,
}];
const SEED_CODER: &[Step] = &[Cut(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
))];
const BAILING: &[Step] = &[Cut(concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*",
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
))];
/// Letters of DeepSeek's cut: all cased scripts.
const DEEPSEEK_LLM: &[Step] = &[
    Cut(r"[\r\n]"),
    Cut(concat!(
        r"\s?[",
        r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}",
        r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}",
        r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}",
        r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}",
        r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}",
        r"\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}",
        r"\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}",
        r"\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}",
        r"\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}",
        r"\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}",
        r"\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}",
        r"\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}",
        r"\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}",
        r"\x{1E900}-\x{1E943}",
        r"]+"
    )),
    Cut(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
    Cut(r"\s+$"),
    Cut(r"[一-龥ࠀ-一가-퟿]+"),
    Digit,
];
const DEEPSEEK_CODER: &[Step] = &[
    Cut(r"[\r\n]"),
    Cut(r"\s?\p{L}+"),
    Cut(r"\s?\p{P}+"),
    Cut(r"[一-龥ࠀ-一가-퟿]+"),
    Digit,
];
const DEEPSEEK_V3: &[Step] = &[
    Cut(r"\p{N}{1,3}"),
    Cut(r"[一-龥぀-ゟ゠-ヿ]+"),
    Cut(concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )),
];
/// Files of before the key existed; llama.cpp's cut for them.
const DEFAULT: &[Step] = &[
    Cut(r"[\p{P}\$\+<=>\^~\|]+"),
    Gpt2,
    Cut(r"\p{N}+"),
    Cut("[0-9][0-9][0-9]"),
];

/// The row of a name; `None` when the name is unknown. Rows whose cut is not known for certain are not listed.
#[rustfmt::skip]
pub(super) fn find(name: &str) -> Option<Pre> {
    let (steps, ignore_merges, add_bos) = match name {
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => (LLAMA3, true, true),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => (LLAMA3, false, false),
        "glm4" | "glm5" => (LLAMA3, true, false),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "megrez" | "hunyuan" | "grok-2" | "solar-open" | "kormo" => (QWEN2, false, false),
        "qwen35" => (QWEN35, false, false),
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "gigachat" | "exaone4"
        | "a.x-4.0" | "mellum" => (GPT2, false, false),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => (SMOLLM, false, false),
        "falcon" => (FALCON, false, false),
        "tekken" => (TEKKEN, true, true),
        "gpt-4o" | "llama4" | "kanana2" | "minimax-m2" => (GPT4O, false, false),
        "deepseek-llm" => (DEEPSEEK_LLM, false, false),
        "deepseek-coder" => (DEEPSEEK_CODER, false, false),
        "deepseek-v3" | "hunyuan-dense" => (DEEPSEEK_V3, false, false),
        "seed-coder" => (SEED_CODER, false, false),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => (BAILING, false, false),
        "default" => (DEFAULT, false, false),
        _ => return None,
    };
    let compose = matches!(name, "qwen2" | "qwen35" | "command-r");
    Some(Pre { steps, ignore_merges, add_bos, compose })
}

/// A cut, ready to be made.
#[derive(Debug)]
enum Cutter {
    Step(Step),
    Regex(Box<Regex>),
}

/// The cut at an expression, by hand where it is known.
fn expression(expression: &str) -> Option<Cutter> {
    Some(Cutter::Step(match expression {
        words::GPT2 => Gpt2,
        words::LLAMA3 => Llama {
            digits: 3,
            marks: false,
        },
        words::QWEN2 => Llama {
            digits: 1,
            marks: false,
        },
        words::QWEN35 => Llama {
            digits: 1,
            marks: true,
        },
        words::TEKKEN => Tekken {
            digits: 1,
            contractions: false,
        },
        words::GPT4O => Tekken {
            digits: 3,
            contractions: true,
        },
        _ => return Some(Cutter::Regex(Box::new(Regex::new(expression).ok()?))),
    }))
}

/// The cuts of a vocabulary, ready to be made.
#[derive(Debug)]
pub(super) struct Cutters(Vec<Cutter>);

impl Pre {
    /// Compiles the expressions.
    pub(super) fn build(&self) -> Result<Cutters> {
        let cutter = |step: &Step| match step {
            Cut(expression) => {
                let regex = Regex::new(expression);
                let regex =
                    regex.map_err(|e| Error::ModelLoad(format!("tokenizer.ggml.pre: {e}")))?;
                Ok(Cutter::Regex(Box::new(regex)))
            }
            step => Ok(Cutter::Step(*step)),
        };
        Ok(Cutters(
            self.steps.iter().map(cutter).collect::<Result<_>>()?,
        ))
    }
}

impl Cutters {
    /// Of a tokenizer.json's `pre_tokenizer`, whose last step must turn bytes into letters; `None` where it has a step
    /// that only the tokenizers crate knows.
    pub(super) fn from_json(pre_tokenizer: &Value) -> Option<Self> {
        let steps: &[Value] = match pre_tokenizer.get("pretokenizers") {
            Some(steps) => steps.as_array()?,
            None => std::slice::from_ref(pre_tokenizer),
        };
        let (last, cuts) = steps.split_last()?;
        let is = |value: &Value, key: &str, usual: bool| {
            value.get(key).map_or(Some(usual), Value::as_bool)
        };
        if last["type"] != "ByteLevel" || is(last, "add_prefix_space", true)? {
            return None;
        }
        let mut cutters = Vec::new();
        for cut in cuts {
            cutters.push(match cut["type"].as_str()? {
                "Digits" if is(cut, "individual_digits", false)? => Cutter::Step(Digit),
                "Punctuation" if cut["behavior"] == "Contiguous" => Cutter::Step(Step::Punctuation),
                "Split" if cut["behavior"] == "Isolated" && !is(cut, "invert", false)? => {
                    expression(cut["pattern"]["Regex"].as_str()?)?
                }
                _ => return None,
            });
        }
        if is(last, "use_regex", true)? {
            cutters.push(Cutter::Step(Gpt2));
        }
        Some(Self(cutters))
    }

    /// Whether the cuts are the same.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&Cutter, &Cutter)| match (a, b) {
            (Cutter::Step(a), Cutter::Step(b)) => a == b,
            (Cutter::Regex(a), Cutter::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }

    /// Calls `word` with the bytes of each word of `text`, in order.
    pub(super) fn words(&self, text: &str, word: &mut impl FnMut(&[u8])) -> Result<()> {
        cut(&self.0, text, word)
    }
}

fn cut(cutters: &[Cutter], text: &str, word: &mut impl FnMut(&[u8])) -> Result<()> {
    let Some((first, rest)) = cutters.split_first() else {
        word(text.as_bytes());
        return Ok(());
    };
    let scan = Scan::new(text);
    let end = |at: usize| match first {
        Cutter::Step(Gpt2) => scan.gpt2(at),
        Cutter::Step(Llama { digits, marks }) => scan.llama(at, *digits, *marks),
        Cutter::Step(Tekken {
            digits,
            contractions,
        }) => scan.tekken(at, *digits, *contractions),
        Cutter::Step(Digit) => scan.class(at, NUMBER, 1),
        _ => scan.class(at, PUNCTUATION, usize::MAX),
    };
    match first {
        Cutter::Step(EncodedDigits) => encoded_digits(text.as_bytes(), word),
        Cutter::Regex(regex) => {
            let mut at = 0;
            for found in regex.find_iter(text) {
                let found = found.map_err(|e| {
                    Error::Tokenization(format!("cannot cut the text into words: {e}"))
                })?;
                if found.start() > at {
                    cut(rest, &text[at..found.start()], word)?;
                }
                cut(rest, found.as_str(), word)?;
                at = found.end();
            }
            if at < text.len() {
                cut(rest, &text[at..], word)?;
            }
        }
        Cutter::Step(_) => {
            let mut at = 0;
            while at < text.len() {
                let end = end(at).max(at + 1);
                cut(rest, &text[at..end], word)?;
                at = end;
            }
        }
    }
    Ok(())
}

/// See `Step::EncodedDigits`.
fn encoded_digits(bytes: &[u8], word: &mut impl FnMut(&[u8])) {
    // Superscripts and fractions of Latin-1, whose bytes stand for themselves.
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | 0xB2 | 0xB3 | 0xB9 | 0xBC..=0xBE);
    for run in bytes.chunk_by(|&a, &b| digit(a) == digit(b)) {
        let mut start = 0;
        let mut at = 0;
        while let Some(three) = run.get(at..at + 3) {
            if three.iter().all(u8::is_ascii_digit) {
                if start < at {
                    word(&run[start..at]);
                }
                word(three);
                at += 3;
                start = at;
            } else {
                at += 1;
            }
        }
        if start < run.len() {
            word(&run[start..]);
        }
    }
}
