//! What a ring noticed.

use ipveil::keys::{KeyEvent, Notice};

pub(crate) fn notices(events: &[KeyEvent]) -> Vec<Notice> {
    let notice = |event: &KeyEvent| if let KeyEvent::Noticed { notice, .. } = event { Some(*notice) } else { None };
    events.iter().filter_map(notice).collect()
}
