//! What speculation gains or costs at one sequence: texts that repeat themselves and free ones, with and without, in turn.
//! Times are of one thread that computes, so that a busy machine does not disturb them much.
//! `cargo run --release -p candle-vllm-engine --example speculation MODEL.gguf [rounds]`
use std::error::Error;

use candle_vllm_engine::{
    Counters, Engine, EngineConfig, GenerationParams, Mailbox, Prompt, Request,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// One request.
struct Case {
    name: &'static str,
    prompt: String,
    temperature: f32,
}

/// Records of one shape, to be continued.
fn records() -> String {
    let names = [
        "Anna", "Boris", "Clara", "David", "Emma", "Felix", "Greta", "Hugo",
    ];
    let record = |(i, name): (usize, &&str)| {
        format!(
            "  {{\"id\": {}, \"name\": \"{name}\", \"role\": \"engineer\", \"active\": true, \"team\": \"platform\"}},\n",
            i + 1
        )
    };
    let list: String = names.iter().enumerate().map(record).collect();
    format!("Here is the list of all employees as JSON:\n[\n{list}")
}

fn table() -> String {
    let row = |i: usize| format!("| {i} | item {i} | in stock | 10.00 EUR | warehouse A |\n");
    let rows: String = (1..12).map(row).collect();
    format!("| no | name | state | price | place |\n|---|---|---|---|---|\n{rows}")
}

fn quote() -> String {
    let text = "The committee met on Tuesday to discuss the new bridge over the river. The engineers had prepared three \
                designs, each with its own cost and schedule. After two hours of debate the members agreed to build the \
                second design, because it keeps the old harbour open during the work.";
    format!(
        "Original text:\n{text}\n\nThe same text, quoted word by word:\n{text}\n\nThe same text once more:\n"
    )
}

fn chat(question: &str) -> String {
    format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
}

fn cases() -> Vec<Case> {
    let case = |name, prompt, temperature| Case {
        name,
        prompt,
        temperature,
    };
    vec![
        case("JSON records", records(), 0.0),
        case("table", table(), 0.0),
        case("quoted text", quote(), 0.0),
        case("JSON records, seeded", records(), 0.7),
        case(
            "free: a story, seeded",
            chat("Tell me a story about a fox and a lighthouse."),
            1.0,
        ),
        case(
            "free: an essay, seeded",
            chat("Why do people travel? Write an essay."),
            0.8,
        ),
        case(
            "free: advice, seeded",
            chat("How should I prepare for a job interview?"),
            1.0,
        ),
        case(
            "free: a story",
            chat("Tell me a story about a fox and a lighthouse."),
            0.0,
        ),
    ]
}

/// Seconds that this thread has computed: what others make it wait for does not count.
fn computed() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text
        .split_whitespace()
        .next()
        .ok_or("no time in schedstat")?;
    Ok(nanoseconds.parse::<f64>()? / 1e9)
}

/// Microseconds a token, the bits of what was said, and the counters' growth.
fn run(engine: &Engine, case: &Case, seed: u64) -> Outcome<(f64, Vec<u32>, [u64; 2])> {
    let mailbox = Mailbox::new();
    let params = GenerationParams {
        max_tokens: 256,
        temperature: case.temperature,
        ignore_eos: true,
        seed: Some(seed),
        logprobs: Some(0),
        ..Default::default()
    };
    let drafts = |c: Counters| [c.drafted_tokens, c.kept_tokens];
    let before = drafts(engine.stats().counters);
    engine.submit(
        Request::new(Prompt::Text(case.prompt.clone()), params),
        &mailbox,
    )?;
    let (mut bits, mut begin, mut first) = (Vec::new(), None, 0);
    let mut time = 0.0;
    while engine.step()?.has_work() || begin.is_none() {
        for event in mailbox.try_poll() {
            bits.extend(event.tokens.iter().copied());
            bits.extend(event.logprobs.iter().map(|l| l.logprob.to_bits()));
        }
        let now = computed()?;
        let begin = *begin.get_or_insert_with(|| {
            first = bits.len() / 2;
            now
        });
        time = now - begin;
    }
    for event in mailbox.try_poll() {
        bits.extend(event.tokens.iter().copied());
        bits.extend(event.logprobs.iter().map(|l| l.logprob.to_bits()));
    }
    let after = drafts(engine.stats().counters);
    let tokens = bits.len() / 2 - first;
    // In pairs of any order: a step may say several tokens.
    bits.sort_unstable();
    let spent = time * 1e6 / tokens.max(1) as f64;
    Ok((spent, bits, [after[0] - before[0], after[1] - before[1]]))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Outcome<()> {
    let argument = |i| std::env::args().nth(i);
    let path = argument(1).ok_or("the path of a model")?;
    let number = |i| argument(i).and_then(|a| a.parse::<usize>().ok());
    let rounds = number(2).unwrap_or(5);
    let open = |speculation: &str| {
        let config = EngineConfig {
            model_path: path.clone().into(),
            speculation: speculation.into(),
            threads: Some(1),
            background: false,
            max_batch_size: 1,
            max_sequence_length: Some(2048),
            ..Default::default()
        };
        Engine::open(config, None)
    };
    let (off, ngram) = (open("off")?, open("ngram")?);
    println!(
        "{:<24}{:>10}{:>10}{:>8}{:>10}{:>8}",
        "text", "off us", "ngram us", "ratio", "drafted", "kept"
    );
    for case in cases() {
        let (mut plain, mut drafted, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let mut drafts = [0; 2];
        for seed in 0..rounds as u64 {
            let (a, expected, _) = run(&off, &case, seed)?;
            let (b, bits, counted) = run(&ngram, &case, seed)?;
            if bits != expected {
                return Err(format!("{}: other bits with speculation", case.name).into());
            }
            drafts = [drafts[0] + counted[0], drafts[1] + counted[1]];
            plain.push(a);
            drafted.push(b);
            ratios.push(a / b);
        }
        let share = drafts[1] as f64 / drafts[0].max(1) as f64;
        println!(
            "{:<24}{:>10.0}{:>10.0}{:>8.2}{:>10}{:>7.0}%",
            case.name,
            median(&mut plain),
            median(&mut drafted),
            median(&mut ratios),
            drafts[0],
            share * 100.0
        );
    }
    Ok(())
}
