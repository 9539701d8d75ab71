//! The live view: a screen of its own on a terminal, plain table lines otherwise.

use std::io::IsTerminal as _;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row as TableRow, Table, Wrap};
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::{mpsc, watch};

use super::fit::{HEAD, cut, fit};
use super::metrics::samples;
use super::refusals::{self, Refusal};
use super::traffic::{REQUESTS, Row, bytes, requests, rows};
use super::verdicts;
use crate::lab::state::State;
use crate::mesh::ask::{METRICS_PORT, get};
use crate::{say, status};

/// How often the daemons are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often lines are printed where there is no terminal.
const PRINT_EVERY: Duration = Duration::from_secs(10);
/// How long the reader of keys waits before it looks whether it is still wanted.
const KEY_PATIENCE: Duration = Duration::from_millis(100);
/// Lines below which there is no table to speak of.
const HEIGHT_MIN: u16 = 6;
/// How programs of waypoints are called (`mesh::waypoint`).
const WAYPOINTS: &str = "waypoint.";
/// Refusals that are shown.
const REFUSALS: usize = 5;

/// What the operator wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Leave,
    Tour,
}

/// What the screen shows.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub rows: Vec<Row>,
    pub refusals: Vec<Refusal>,
    /// What could not be asked.
    pub problem: Option<String>,
}

/// Shows until the operator wants something else; without a terminal, for ever.
pub async fn live(state: watch::Receiver<State>) -> anyhow::Result<Wish> {
    if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        on_screen(state).await
    } else {
        in_lines(state).await
    }
}

/// Asks all daemons.
pub async fn picture(state: &State) -> Picture {
    let mut picture = Picture::default();
    let mut all = Vec::new();
    for node in &state.nodes {
        match get(&node.netns, METRICS_PORT, "/metrics").await {
            Ok(text) => all.extend(samples(&String::from_utf8_lossy(&text))),
            Err(error) => picture.problem = Some(format!("{}: {error:#}", node.name)),
        }
    }
    picture.rows = rows(&all);
    verdicts::ask(state, &mut picture.rows).await;
    for waypoint in state.programs.iter().filter(|program| program.name.starts_with(WAYPOINTS)) {
        // One that is only starting has counted nothing yet.
        if let Ok(text) = get(&waypoint.netns, METRICS_PORT, "/stats/prometheus").await {
            picture.rows.extend(requests(&samples(&String::from_utf8_lossy(&text))));
        }
    }
    picture.refusals = refusals::recent(state, REFUSALS);
    picture
}

async fn in_lines(state: watch::Receiver<State>) -> anyhow::Result<Wish> {
    loop {
        let now = state.borrow().clone();
        let picture = picture(&now).await;
        if let Some(problem) = &picture.problem {
            say::warning(problem);
        }
        if picture.rows.is_empty() {
            tokio::time::sleep(ASK_EVERY).await; // nothing has been counted yet
            continue;
        }
        say::out(as_table(&picture).trim_fmt());
        tokio::time::sleep(PRINT_EVERY).await;
    }
}

/// The rows as plain text.
pub fn as_table(picture: &Picture) -> comfy_table::Table {
    let mut table = status::table(HEAD);
    for row in &picture.rows {
        table.add_row(cells(row, &picture.refusals));
    }
    table
}

fn cells(row: &Row, refusals: &[Refusal]) -> [String; 7] {
    [
        row.source.clone(),
        row.destination.clone(),
        if row.service.is_empty() { "-".to_owned() } else { row.service.clone() },
        if row.encrypted { "mTLS" } else { "no" }.to_owned(),
        row.open.to_string(),
        bytes(row.bytes),
        verdict(row, refusals),
    ]
}

/// What is decided now, and what was refused until now; where nobody could be asked, what the counters say.
fn verdict(row: &Row, refusals: &[Refusal]) -> String {
    if let Some(now) = &row.verdict {
        return if row.denied > 0 && !now.starts_with(REQUESTS) { format!("{now}; {} refused", row.denied) } else { now.clone() };
    }
    let refused = row.denied > 0;
    let by = refusals.iter().rev().find(|refusal| refusal.concerns(&row.source, &row.destination)).and_then(|refusal| refusal.policy.clone());
    match (row.opened > row.denied || !refused, refused) {
        (_, false) if row.failed > 0 => format!("allowed, {} failed", row.failed),
        (_, false) => "allowed".to_owned(),
        (true, true) => format!("allowed; {} refused{}", row.denied, by.map(|by| format!(" by {by}")).unwrap_or_default()),
        (false, true) => format!("refused{}", by.map(|by| format!(" by {by}")).unwrap_or_default()),
    }
}

async fn on_screen(state: watch::Receiver<State>) -> anyhow::Result<Wish> {
    let mut terminal = ratatui::try_init()?;
    say::hold();
    let outcome = show(&mut terminal, state).await;
    ratatui::restore();
    say::release();
    outcome
}

async fn show(terminal: &mut DefaultTerminal, state: watch::Receiver<State>) -> anyhow::Result<Wish> {
    let mut wishes = wishes();
    let mut ask = tokio::time::interval(ASK_EVERY);
    ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(Key::Wish(wish)) => return Ok(wish),
                Some(Key::Redraw) => {}
                None => return Ok(Wish::Leave),
            },
            _ = ask.tick() => {}
        }
        let now = state.borrow().clone();
        let picture = picture(&now).await;
        terminal.draw(|frame| draw(frame, &now, &picture))?;
    }
}

enum Key {
    Wish(Wish),
    Redraw,
}

/// Keys come from a thread of their own, which ends when nobody listens.
fn wishes() -> mpsc::UnboundedReceiver<Key> {
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while !send.is_closed() {
            let key = match event::poll(KEY_PATIENCE).and_then(|is_there| if is_there { event::read().map(Some) } else { Ok(None) }) {
                Ok(Some(Event::Key(key))) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => Key::Wish(Wish::Leave),
                    // The terminal is in raw mode: Ctrl-C is a key like any other.
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Wish(Wish::Leave),
                    KeyCode::Char('t') => Key::Wish(Wish::Tour),
                    _ => continue,
                },
                Ok(Some(Event::Resize(..))) => Key::Redraw,
                Ok(_) => continue,
                Err(_) => return,
            };
            let last = matches!(key, Key::Wish(_));
            if send.send(key).is_err() || last {
                return;
            }
        }
    });
    receive
}

/// The table takes what it needs; refusals and news have what is left.
fn draw(frame: &mut Frame<'_>, state: &State, picture: &Picture) {
    let (width, height) = (usize::from(frame.area().width), frame.area().height);
    let rows: Vec<[String; 7]> = picture.rows.iter().map(|row| cells(row, &picture.refusals)).collect();
    let Some(fitted) = fit(&rows, width).filter(|_| height >= HEIGHT_MIN) else {
        frame.render_widget(Paragraph::new("This terminal is too small for the table: make it larger, or press q to stop the mesh.").wrap(Wrap::default()), frame.area());
        return;
    };
    let news = picture.problem.clone().or_else(say::last_held).map(|text| Line::raw(text).style(Style::new().fg(Color::Yellow)));
    let refusals: Vec<Line<'_>> = picture.refusals.iter().map(|refusal| Line::raw(cut(&refusal.to_string(), width))).collect();
    let table_height = rows.len() as u16 + 2;
    // The top line and the keys, and the news where there are any.
    let around = 2 + news.is_some() as u16;
    let left = height.saturating_sub(around + table_height);
    let low_height = if refusals.is_empty() || left < 2 { 0 } else { (refusals.len() as u16 + 1).min(left) };
    let [top, middle, low, news_line, keys] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(low_height), Constraint::Length(news.is_some() as u16), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(cut(&headline(state), width)), top);
    let lines = picture.rows.iter().zip(&fitted.rows).map(|(row, cells)| {
        let color = if row.denied > 0 { Color::Red } else if row.encrypted { Color::Green } else { Color::Yellow };
        TableRow::new(fitted.columns.iter().map(|(at, _)| Cell::from(cells[*at].as_str()))).style(Style::new().fg(color))
    });
    let head = TableRow::new(fitted.columns.iter().map(|(at, _)| HEAD[*at])).style(Style::new().bold());
    let table = Table::new(lines, fitted.columns.iter().map(|(_, wide)| Constraint::Length(*wide as u16))).column_spacing(2).header(head);
    frame.render_widget(table.block(Block::new().borders(Borders::TOP).title("what goes where")), middle);
    // The newest are at the end.
    let shown = refusals.len().saturating_sub(usize::from(low_height.saturating_sub(1)));
    frame.render_widget(Paragraph::new(refusals.into_iter().skip(shown).collect::<Vec<_>>()).block(Block::new().borders(Borders::TOP).title("last refusals")), low);
    frame.render_widget(Paragraph::new(news.into_iter().collect::<Vec<_>>()), news_line);
    frame.render_widget(Paragraph::new("t: take the tour   q: stop the mesh and remove everything"), keys);
}

fn headline(state: &State) -> String {
    let running = state.pods.iter().filter(|pod| pod.init.is_some() && pod.trouble.is_none()).count();
    format!("mesh {}: {} nodes, {running} of {} pods run; folder {}", state.mesh, state.nodes.len(), state.pods.len(), state.folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_names_the_policy_that_refused() {
        let row = Row { source: "ns/shop/sa/load".into(), destination: "ns/shop/sa/db".into(), opened: 2, denied: 2, ..Row::default() };
        let refusal = Refusal { source: "ns/shop/sa/load".into(), destination: "ns/shop/sa/db".into(), policy: Some("shop/db-for-cart-only".into()), ..Refusal::default() };
        assert_eq!(verdict(&row, std::slice::from_ref(&refusal)), "refused by shop/db-for-cart-only");
        assert_eq!(verdict(&Row { denied: 0, ..row.clone() }, &[refusal]), "allowed");
        assert_eq!(verdict(&Row { opened: 5, ..row.clone() }, &[]), "allowed; 2 refused");
        assert_eq!(verdict(&Row { verdict: Some("allowed by shop/p".into()), ..row }, &[]), "allowed by shop/p; 2 refused");
    }
}
