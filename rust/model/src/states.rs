//! Recurrent states: what layers keep of a sequence in place of keys and values, of one size whatever its length.
use crate::{Error, Result, step::Slots};

/// Layers whose states are of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateGroup {
    /// Layers.
    pub layers: usize,
    /// Values of a layer's state, float32.
    pub width: usize,
}

impl StateGroup {
    /// Bytes of one sequence's states, all layers.
    pub fn bytes(self) -> usize {
        self.layers * self.width * size_of::<f32>()
    }
}

/// States of a number of sequences on the host, in slots.
#[derive(Debug, Default)]
pub struct States {
    slots: usize,
    groups: Vec<(StateGroup, Vec<f32>)>,
}

impl States {
    /// `slots` slots for the states of these layers.
    pub fn new(groups: &[StateGroup], slots: usize) -> Self {
        let make = |&group: &StateGroup| (group, vec![0.0; slots * group.layers * group.width]);
        Self {
            slots: if groups.is_empty() { 0 } else { slots },
            groups: groups.iter().map(make).collect(),
        }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The states of layer `layer` of a group, one for each of `slots` and in their order: each holds what its `read`
    /// holds, zeros where that is none, and is to be brought further in place.
    ///
    /// # Errors
    /// `Run` when a slot is none of these, or two sequences write into one.
    pub fn enter(
        &mut self,
        (group, layer): (usize, usize),
        slots: impl Iterator<Item = Option<Slots>>,
    ) -> Result<Vec<&mut [f32]>> {
        let wrong = |what: &str| Error::Run(format!("recurrent states: {what}"));
        let (shape, values) = self
            .groups
            .get_mut(group)
            .ok_or_else(|| wrong("no such group"))?;
        let plane = self.slots * shape.width;
        let values = &mut values[layer * plane..][..plane];
        let mut written = Vec::new();
        for slots in slots {
            let Slots { read, write } = slots.ok_or_else(|| wrong("a sequence has none"))?;
            if write.max(read.unwrap_or(0)) as usize >= self.slots {
                return Err(wrong("no such slot"));
            }
            let at = |slot: u32| slot as usize * shape.width..(slot as usize + 1) * shape.width;
            match read {
                None => values[at(write)].fill(0.0),
                Some(read) if read != write => values.copy_within(at(read), at(write).start),
                Some(_) => {}
            }
            written.push(write as usize);
        }
        let mut all: Vec<Option<&mut [f32]>> = values
            .chunks_exact_mut(shape.width.max(1))
            .map(Some)
            .collect();
        let states: Option<Vec<&mut [f32]>> =
            written.into_iter().map(|slot| all[slot].take()).collect();
        states.ok_or_else(|| wrong("two sequences write into one slot"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn enter(states: &mut States, layer: usize, slots: &[Slots]) -> Result<Vec<Vec<f32>>> {
        let entered = states.enter((0, layer), slots.iter().copied().map(Some))?;
        Ok(entered.into_iter().map(|s| s.to_vec()).collect())
    }

    #[test]
    fn a_state_is_begun_carried_on_and_left_as_it_was_where_it_is_only_read() {
        let group = StateGroup {
            layers: 2,
            width: 2,
        };
        assert_eq!(group.bytes(), 16);
        let mut states = States::new(&[group], 3);
        let slots = |read, write| Slots { read, write };
        let begun = states.enter((0, 1), [Some(slots(None, 1))].into_iter());
        begun.unwrap()[0].copy_from_slice(&[5.0, 6.0]);
        // Carried on elsewhere, and begun anew beside it.
        let forked = enter(&mut states, 1, &[slots(Some(1), 2), slots(None, 0)]);
        assert_eq!(forked.unwrap(), [[5.0, 6.0], [0.0, 0.0]]);
        assert_eq!(
            enter(&mut states, 1, &[slots(Some(1), 1)]).unwrap(),
            [[5.0, 6.0]]
        );
        // The other layer has its own.
        assert_eq!(
            enter(&mut states, 0, &[slots(Some(1), 1)]).unwrap(),
            [[0.0, 0.0]]
        );
        assert_eq!(
            enter(&mut states, 1, &[slots(None, 1)]).unwrap(),
            [[0.0, 0.0]]
        );
    }

    #[test]
    fn slots_that_are_not_there_or_shared_are_refused() {
        let group = StateGroup {
            layers: 1,
            width: 1,
        };
        let mut states = States::new(&[group], 2);
        let slots = |read, write| Slots { read, write };
        let twice = [slots(None, 1), slots(Some(0), 1)];
        assert!(enter(&mut states, 0, &twice).is_err());
        assert!(enter(&mut states, 0, &[slots(None, 2)]).is_err());
        assert!(enter(&mut states, 0, &[slots(Some(2), 1)]).is_err());
        assert!(states.enter((0, 0), [None].into_iter()).is_err());
        assert!(states.enter((1, 0), [].into_iter()).is_err());
        assert_eq!(States::new(&[], 5).slots(), 0);
    }
}
