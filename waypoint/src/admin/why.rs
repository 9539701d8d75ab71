//! `/why`: which rule a request would fall under, and why not another. Pure: the question as it is written, and the answer.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_model::address::NamespacedHostname;
use mesh_runtime::admin::Query;
use serde_json::Value;

use crate::settings::Settings;
use crate::settings::why::{Asked, why};

/// What is told to whoever asks in another way.
pub const USAGE: &str = "\
usage: /why?service=NAMESPACE/HOSTNAME&port=PORT[&client=NAMESPACE][&method=GET][&path=/PATH?QUERY][&authority=HOST]
       [&header=NAME:VALUE ...][&server-name=NAME]
client is the namespace of who would ask; a path is escaped as in every query (? is %3F, & is %26)
";

/// # Errors
/// What is wrong with the question, for whoever asked.
pub fn answer(settings: &Settings, query: &Query) -> Result<Value, String> {
    Ok(why(settings, &asked(query).map_err(|wrong| format!("{wrong}\n{USAGE}"))?))
}

fn asked(query: &Query) -> Result<Asked, String> {
    const KNOWN: [&str; 8] = ["service", "port", "client", "method", "path", "authority", "header", "server-name"];
    if let Some((unknown, _)) = query.0.iter().find(|(name, _)| !KNOWN.contains(&name.as_str())) {
        return Err(format!("{unknown:?} is nothing that can be asked for"));
    }
    let service = query.first("service").ok_or("of which service?")?;
    let service = NamespacedHostname::parse(service).ok_or_else(|| format!("{service:?} is no service"))?;
    let port = query.first("port").ok_or("at which port?")?;
    let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    let method = query.first("method").unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is no method"))?;
    let target = query.first("path").unwrap_or("/");
    let (path, parameters) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    let mut headers = HeaderMap::new();
    for (_, line) in query.0.iter().filter(|(name, _)| name == "header") {
        let wrong = || format!("{line:?} is no header: write NAME:VALUE");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::try_from(value.trim()).map_err(|_| wrong())?);
    }
    Ok(Asked {
        authority: query.first("authority").unwrap_or(&service.hostname).to_owned(),
        service,
        port,
        client: query.first("client").unwrap_or_default().to_owned(),
        method,
        path: path.to_owned(),
        query: parameters,
        headers,
        server_name: query.first("server-name").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_is_written() {
        let read =
            asked(&Query::parse("service=shop/web&port=80&client=test&method=POST&path=/a%3Fb=c&header=X-A:%20y&header=x-a:z"))
                .unwrap();
        assert_eq!((read.service.to_string().as_str(), read.port, read.client.as_str()), ("shop/web", 80, "test"));
        assert_eq!((read.method, read.path.as_str(), read.query.as_deref()), (Method::POST, "/a", Some("b=c")));
        assert_eq!(read.authority, "web");
        assert_eq!(read.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["y", "z"]);
        for (wrong, word) in [
            ("", "service"),
            ("service=web&port=80", "web"),
            ("service=shop/web", "port"),
            ("service=shop/web&port=x", "port"),
            ("service=shop/web&port=80&method=a%20b", "method"),
            ("service=shop/web&port=80&header=a", "header"),
            ("service=shop/web&port=80&header=a:b%0d%0ac", "header"),
            ("service=shop/web&port=80&path=/a&q=b", "q"),
        ] {
            let told = answer(&Settings::default(), &Query::parse(wrong)).unwrap_err();
            assert!(told.contains(word) && told.contains("usage"), "{wrong}: {told}");
        }
        assert_eq!(answer(&Settings::default(), &Query::parse("service=shop/web&port=80")).unwrap()["answer"], "refused");
    }
}
