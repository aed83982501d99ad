//! SentencePiece-style vocabularies: merges from scores.
//! SentencePiece joins the two neighbours whose joint piece has the highest score; as a list of merges in order of
//! score that is byte-pair encoding. Knows nothing of GGUF.
use std::{cmp::Ordering, collections::HashMap};

/// The merges `(left, right)` that make the pieces of a vocabulary, best first.
///
/// `pieces`: each piece that may be made by merging, with its score; `ids`: all pieces that may be parts.
pub(super) fn merges(pieces: &[(&str, f32)], ids: &HashMap<&str, u32>) -> Vec<(String, String)> {
    let mut found: Vec<(f32, u32, u32, &str, usize)> = Vec::new();
    for &(piece, score) in pieces {
        for (at, _) in piece.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&piece[..at]), ids.get(&piece[at..])) {
                found.push((score, left, right, piece, at));
            }
        }
    }
    found.sort_by(|a, b| {
        let by_score = b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal);
        by_score.then((a.1, a.2).cmp(&(b.1, b.2)))
    });
    found
        .into_iter()
        .map(|(_, _, _, piece, at)| (piece[..at].to_owned(), piece[at..].to_owned()))
        .collect()
}
