//! The page and its data.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State as Given;
use axum::http::{HeaderName, header};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt as _};

use super::{Shared, State};

const PERIOD: Duration = Duration::from_secs(1);

/// What every answer says: nothing is kept, and the page loads nothing from anywhere else.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// `/` is the page, `/api/state` what it shows, `/events` the same once a second.
pub(super) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/api/state", get(state))
        .route("/events", get(events))
        .with_state(shared)
}

fn now(shared: &Shared) -> State {
    let now = shared.now();
    shared.lock().at(now)
}

/// The page with what is known now, so that it shows something at once.
async fn page(Given(shared): Given<Shared>) -> impl IntoResponse {
    let state = serde_json::to_string(&now(&shared)).unwrap_or_default();
    // Within a script only a < could end it.
    let page = include_str!("page.html").replacen("STATE", &state.replace('<', "\\u003c"), 1);
    (HEADERS, Html(page))
}

async fn state(Given(shared): Given<Shared>) -> impl IntoResponse {
    (HEADERS, Json(now(&shared)))
}

async fn events(Given(shared): Given<Shared>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(tokio::time::interval(PERIOD));
    Sse::new(ticks.map(move |_| {
        // All of it can be written as JSON; if not, the page keeps what it had.
        let event = Event::default().json_data(now(&shared));
        Ok(event.unwrap_or_else(|e| Event::default().comment(e.to_string())))
    }))
}
