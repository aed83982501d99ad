//! Places where a test asks for a panic. Outside of tests nothing is stored and nothing happens.

/// Somewhere in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A command is carried out.
    Command,
    /// A sequence was taken out of the lists and is not ended yet.
    Abort,
    /// The next step is decided.
    Schedule,
    /// A token of one sequence is drawn.
    Draw,
    /// A sequence takes what was drawn.
    Take,
    /// One sequence's text ends.
    Finish,
    /// A step is booked.
    Postprocess,
    /// Figures are about to be shown.
    Publish,
    /// Some mailboxes have their events and others not.
    Flush,
}

/// A place, of one request or of all.
#[cfg(test)]
type Target = (Place, Option<u64>);

/// Panics that are asked for; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    armed: std::sync::Arc<parking_lot::Mutex<Option<Target>>>,
}

impl Faults {
    /// Panics, once, if this place is asked for.
    #[inline(always)]
    pub(crate) fn at(&self, _place: Place) {
        #[cfg(test)]
        self.strike(_place, None);
    }

    /// Panics, once, if this place is asked for with this request.
    #[inline(always)]
    pub(crate) fn of(&self, _place: Place, _request: u64) {
        #[cfg(test)]
        self.strike(_place, Some(_request));
    }

    /// Asks for a panic.
    #[cfg(test)]
    pub(crate) fn arm(&self, place: Place, request: Option<u64>) {
        *self.armed.lock() = Some((place, request));
    }

    #[cfg(test)]
    #[allow(clippy::panic)]
    fn strike(&self, place: Place, request: Option<u64>) {
        let mut armed = self.armed.lock();
        if *armed == Some((place, request)) {
            *armed = None;
            drop(armed);
            panic!("injected at {place:?}");
        }
    }
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic of unknown kind".into())
}
