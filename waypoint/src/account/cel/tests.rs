use std::borrow::Cow;

use http::HeaderName;

use super::*;

struct One;

impl Asked for One {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        Some(match attribute {
            Attribute::ResponseCode => Value::Int(503),
            Attribute::RequestPath => Value::Text("/a/b?c=d".into()),
            Attribute::RequestMethod => Value::Text("GET".into()),
            Attribute::RequestDuration => Value::Duration(1_500_000_000),
            Attribute::RequestTime => Value::Time(1_772_600_767_000_000_000),
            Attribute::ConnectionMtls => Value::Bool(true),
            Attribute::ResponseFlags => Value::Text("UF,URX".into()),
            _ => return None,
        })
    }

    fn header(&self, of: Headers, name: &HeaderName) -> Option<Cow<'_, str>> {
        (of == Headers::Request && name == "x-user").then(|| "jo".into())
    }
}

#[test]
fn what_holds() {
    for (text, want) in [
        ("response.code >= 400", true),
        ("response.code >= 400u && response.code < 500", false),
        ("response.code == 200 || request.path.startsWith('/a')", true),
        ("!(response.code == 200)", true),
        ("response.code in [200, 503]", true),
        ("request.method in ['PUT', \"POST\"]", false),
        ("request.path.matches('^/a/[a-z]')", true),
        ("request.path.matches('/b')", true),
        ("request.path.endsWith(r'\\d')", false),
        ("request.path.contains('?c') ? connection.mtls : false", true),
        ("response.flags.contains('URX')", true),
        ("has(request.headers['x-user'])", true),
        ("'X-User' in request.headers", true),
        ("'x-user' in response.headers", false),
        ("request.headers['x-user'] + '!' == 'jo!'", true),
        ("size(request.method) == 3 && request.method.size() > 2", true),
        ("request.duration > duration('1.2s') && request.duration < duration('1m')", true),
        ("request.time > timestamp('2026-03-04T05:06:06Z')", true),
        ("string(response.code) == '503'", true),
        ("response.code > 502.5", true),
        ("-1 < response.code", true),
        // What is not there decides nothing, unless the rest does.
        ("request.headers['none'] == 'a'", false),
        ("!(request.headers['none'] == 'a')", false),
        ("request.headers['none'] == 'a' || response.code == 503", true),
        ("request.headers['none'] == 'a' && response.code == 503", false),
        ("!(request.headers['none'] == 'a' && response.code == 200)", true),
        ("!has(request.headers['none'])", true),
        ("has(response.grpc_status)", false),
    ] {
        let program = Program::parse_condition(text).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(program.holds(&One), want, "{text}");
    }
}

#[test]
fn what_is_refused_says_where_and_why() {
    for (text, message) in [
        ("", "a value is missing at 0"),
        ("response.code = 4", "here it should end at 14"),
        ("response.cod >= 4", "`response.cod` is no attribute"),
        ("response.code == '4'", "a number is needed, not a text"),
        ("response.code", "the value is not true or false"),
        ("request.method && true", "true or false is needed, not a text"),
        ("request.headers == 'a'", "is asked for one name"),
        ("request.path.matches('(')", "the regular expression is wrong"),
        ("request.path.matches(request.method)", "takes a quoted expression"),
        ("request.path.lower() == 'a'", "`lower` is no method"),
        ("length('a') == 1", "`length` is no function"),
        ("has(1)", "`has` asks"),
        ("request.headers['a b'] == ''", "no name of a header"),
        ("'a", "the quotes do not end"),
        ("duration('soon') == request.duration", "no duration"),
        ("request.method in response.code", "after `in` comes a list"),
        ("99999999999999999999 == 1", "no number"),
    ] {
        let wrong = Program::parse_condition(text).err().unwrap_or_else(|| panic!("{text} was read"));
        assert!(wrong.to_string().contains(message), "{text}: {wrong}");
    }
    let deep = "(".repeat(100_000);
    assert!(Program::parse(&deep[..4000]).unwrap_err().to_string().contains("too deep"));
    assert!(Program::parse(&deep).unwrap_err().to_string().contains("too much"));
}

#[test]
fn constants_are_known_as_such() {
    for (text, want) in [("'v1'", Some("v1")), ("\"a\"", Some("a")), ("7", Some("7")), ("request.method", None)] {
        assert_eq!(Program::parse(text).unwrap().constant().as_deref(), want, "{text}");
    }
}
