//! What watches say becomes news: objects are read here, beside the watches, so that the API server makes the next page of
//! a list while this one is read. Pure.

use kube::runtime::watcher::Event;

use super::held::{News, Seen};
use super::sent::Sent;
use crate::objects::pod::Common;
use crate::objects::stand_in::stand_in;
use crate::objects::{Kind, read};
use crate::status::shown::{revision, shown};

/// As a watch tells it.
#[derive(Debug)]
pub enum Raw {
    Event(Box<Event<Sent>>),
    /// What there is nothing to read in.
    News(News),
}

#[derive(Debug, Default)]
pub struct Reader(Common);

impl Reader {
    pub fn read(&mut self, kind: Kind, raw: Raw) -> News {
        let event = match raw {
            Raw::News(news) => return news,
            Raw::Event(event) => *event,
        };
        let sent = match event {
            Event::Init => return News::Begin,
            Event::InitDone => return News::Listed,
            Event::Delete(sent) => return News::Gone(sent.name()),
            Event::InitApply(sent) | Event::Apply(sent) => sent,
        };
        let mut read = read::sent(kind, sent.text()).map_err(|fault| (fault, stand_in(kind, sent.text())));
        if let Ok(object) = &mut read {
            self.0.share(object);
        }
        // Of an object that can be read the cluster knows it.
        let revision = read.as_ref().err().and_then(|_| revision(kind, sent.text()));
        let shown = shown(kind, sent.text());
        News::Object(Box::new(Seen { name: sent.name(), generation: sent.generation(), read, revision, shown }))
    }
}

impl From<Event<Sent>> for Raw {
    fn from(event: Event<Sent>) -> Raw {
        Raw::Event(Box::new(event))
    }
}

impl From<News> for Raw {
    fn from(news: News) -> Raw {
        Raw::News(news)
    }
}
