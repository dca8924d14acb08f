//! Lines that are not the log's own writer's, on their way to where all lines go.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::SystemTime;

use super::line::{Clock, Form, Line};
use super::pages::Pages;

/// Takes whole lines. Clones share it.
#[derive(Clone, Debug)]
pub struct Lines {
    pages: Pages,
    form: Form,
}

thread_local! {
    static DESK: RefCell<(Clock, Vec<u8>)> = RefCell::default();
}

impl Lines {
    pub(super) fn new(pages: Pages, form: Form) -> Self {
        Self { pages, form }
    }

    /// Writes a line of this time. Whether a line of that target is wanted, the caller has asked.
    ///
    /// # Panics
    /// When `fill` writes another line.
    pub fn write(&self, target: &'static str, message: &'static str, fill: impl FnOnce(&mut Line<'_>)) {
        DESK.with_borrow_mut(|(clock, text)| {
            text.clear();
            let mut line = Line::begin(text, self.form, clock, SystemTime::now(), target, message);
            fill(&mut line);
            line.end();
            // Pages take every line, or count it as lost.
            let _ = self.pages.clone().write(text);
        });
    }
}
