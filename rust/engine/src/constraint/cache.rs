//! Compiled grammars by what they were compiled from: the least recently used ones go when they hold too much memory.
//! Knows nothing of how they are compiled.
use std::collections::HashMap;

use llguidance::TokenParser;

use super::compile::Source;

/// Bytes that an entry takes beside what can be asked for.
const ENTRY: usize = 64 << 10;
/// Bytes of a compiled grammar for one of its source, measured over large schemas.
const EXPANSION: usize = 64;

/// Compiled grammars, at their start.
pub(super) struct Cache {
    entries: HashMap<Source, Entry>,
    bytes: usize,
    most: usize,
    clock: u64,
}

struct Entry {
    parser: TokenParser,
    bytes: usize,
    used: u64,
}

impl Cache {
    /// A cache of at most `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            bytes: 0,
            most,
            clock: 0,
        }
    }

    /// The grammar of `source`, with a lexer of its own: what one request finds out or breaks is no other's.
    pub(super) fn get(&mut self, source: &Source) -> Option<TokenParser> {
        self.clock += 1;
        let entry = self.entries.get_mut(source)?;
        entry.used = self.clock;
        Some(entry.parser.deep_clone())
    }

    /// Keeps a grammar, unless it is larger than all there may be.
    pub(super) fn put(&mut self, source: Source, parser: TokenParser) {
        self.clock += 1;
        let bytes =
            ENTRY + source.form.source_len() * EXPANSION + parser.parser.lexer_stats().num_bytes;
        if bytes > self.most {
            return;
        }
        let entry = Entry {
            parser,
            bytes,
            used: self.clock,
        };
        if let Some(old) = self.entries.insert(source, entry) {
            self.bytes -= old.bytes;
        }
        self.bytes += bytes;
        while self.bytes > self.most {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(source) = oldest.map(|(source, _)| source.clone()) else {
                return;
            };
            if let Some(old) = self.entries.remove(&source) {
                self.bytes -= old.bytes;
            }
        }
    }

    /// Grammars that are kept, and bytes that they count for.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}
