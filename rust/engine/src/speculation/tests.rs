#![allow(clippy::unwrap_used)]
use super::lookup::Found;
use super::*;

fn find(text: &[u32]) -> Option<Found> {
    let mut lookup = Lookup::default();
    // In pieces, as an answer grows.
    for end in (0..=text.len()).step_by(2).chain([text.len()]) {
        lookup.extend(&text[..end]);
    }
    lookup.find(text)
}

#[test]
fn what_followed_the_longest_match_is_found_and_of_equals_the_latest() {
    assert_eq!(find(&[]), None);
    assert_eq!(find(&[1, 2]), None);
    assert_eq!(find(&[1, 2, 3, 4, 5]), None);
    // The end itself is no place that it has been at.
    assert_eq!(find(&[1, 1]), None);
    assert_eq!(find(&[1, 1, 1]), Some(Found { next: 2, length: 2 }));
    // Two tokens are asked for only where three are nowhere.
    assert_eq!(
        find(&[4, 5, 6, 1, 5, 6, 2, 5, 6]),
        Some(Found { next: 6, length: 2 })
    );
    assert_eq!(
        find(&[4, 5, 6, 1, 5, 6, 4, 5, 6]),
        Some(Found { next: 3, length: 3 })
    );
    assert_eq!(find(&[1, 1, 1, 1]), Some(Found { next: 3, length: 3 }));
    let text = [9, 1, 2, 3, 7, 0, 1, 2, 3, 8, 9, 1, 2, 3];
    assert_eq!(find(&text), Some(Found { next: 4, length: 4 }));
    assert_eq!(find(&text[1..]), Some(Found { next: 8, length: 3 }));
}

#[test]
fn every_match_is_one() {
    let text: Vec<u32> = (0..400u32).map(|i| i * i % 7 + i / 100).collect();
    for end in 0..text.len() {
        let text = &text[..end];
        if let Some(Found { next, length }) = find(text) {
            assert!(next < end && length >= 2);
            assert_eq!(text[next - length..next], text[end - length..]);
        }
    }
}

/// Rows that are drafted when the text repeats itself and each token comes true with a chance.
fn drafted(chance: impl Fn(usize) -> bool, others: usize, steps: usize) -> (usize, usize) {
    let mut speculation = Speculation::new();
    let mut price = Price::default();
    let text: Vec<u32> = (0..300).map(|i| i % 60).collect();
    let (mut rows, mut kept, mut last) = (0, 0, 0);
    for step in 0..steps {
        let mut draft = Vec::new();
        price.open(1 + others);
        speculation.draft(&text, 100, &mut price, &mut draft);
        let came_true = (0..draft.len())
            .take_while(|i| chance(step * 16 + i))
            .count();
        speculation.learn(draft.len(), came_true);
        assert!(draft.iter().zip(0..).all(|(&token, i)| token == i % 60));
        rows += draft.len();
        kept += came_true;
        last = draft.len();
    }
    assert!(last <= LONGEST);
    (rows, kept)
}

#[test]
fn a_short_repetition_is_drafted_more_than_once() {
    let (mut speculation, mut draft) = (Speculation::new(), Vec::new());
    for _ in 0..40 {
        let mut price = Price::default();
        price.open(1);
        draft.clear();
        speculation.draft(&[5, 1, 2, 1, 2, 1, 2, 1], 100, &mut price, &mut draft);
        speculation.learn(draft.len(), draft.len());
    }
    assert!(draft.len() > 8, "{draft:?}");
    assert!(
        draft
            .iter()
            .enumerate()
            .all(|(i, &token)| token == 2 - i as u32 % 2)
    );
}

#[test]
fn drafts_grow_where_they_come_true_and_cease_where_they_do_not() {
    let (rows, kept) = drafted(|_| true, 0, 100);
    assert!(rows > 1000 && rows == kept, "{rows}");
    let (rows, _) = drafted(|_| false, 0, 1000);
    assert!(rows < 60, "{rows}: what never comes true is hardly tried");
    let (rows, kept) = drafted(|i| i * 2_654_435_761 % 10 < 8, 0, 300);
    assert!(rows > 400 && kept > rows / 3, "{rows} {kept}");
}

#[test]
fn beside_many_others_only_what_is_nearly_certain_is_drafted() {
    let likely = |i: usize| i * 2_654_435_761 % 10 < 7;
    let (alone, _) = drafted(likely, 0, 300);
    let (crowded, _) = drafted(likely, 63, 300);
    assert!(crowded * 10 < alone, "{crowded} {alone}");
}

#[test]
fn the_price_follows_the_steps_that_are_observed() {
    let bought = |cost: &dyn Fn(usize) -> f32, chance: f32| {
        let mut price = Price::default();
        for step in 0..1200usize {
            let rows = 1 + step * 7 % 17;
            // Now and then a step is kept from running.
            let late = if step % 25 == 24 { 30.0 } else { 1.0 };
            price.observe(rows, cost(rows) * late);
        }
        price.open(1);
        price.buy(chance, LONGEST)
    };
    // Rows that cost as much as a step never pay; those that cost nothing always do.
    assert_eq!(bought(&|rows| rows as f32, 0.8), 0);
    assert!(bought(&|_| 100.0, 0.8) >= 12);
    let some = bought(&|rows| 4.0 + rows as f32, 0.7);
    assert!((2..=6).contains(&some), "{some}");
    // Two and three rows as dear as four: then it is four, or none.
    let stairs = |rows: usize| {
        if rows == 1 {
            3.0
        } else {
            rows.max(4) as f32 * 0.3 + 4.0
        }
    };
    assert!((3..=5).contains(&bought(&stairs, 0.6)));
    assert_eq!(bought(&stairs, 0.4), 0);
}
