//! What is said over a service's socket: calls, and answers of three kinds.

use serde_json::{Value, json};

/// An answer of a service.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// What the call returns.
    Reply(Value),
    /// Something on the way to the reply.
    Signal,
    /// Why there is no reply.
    Exception { name: String, value: String, backtrace: String },
}

/// The message that calls a method.
pub(super) fn call(method: &str, arguments: &Value) -> Value {
    json!({"type": "method", "data": {"name": method, "args": arguments}})
}

impl Answer {
    /// Reads an answer; the error says what is wrong with it.
    pub(super) fn read(message: &Value) -> Result<Self, String> {
        let kind = message.get("type").and_then(Value::as_str).ok_or("it has no `type`")?;
        let data = message.get("data").and_then(Value::as_object).ok_or("it has no `data`")?;
        let text = |member: &str| {
            let text =
                data.get(member).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            text.unwrap_or_default()
        };
        match kind {
            "reply" => {
                data.get("reply").cloned().map(Self::Reply).ok_or_else(|| "it has no `reply`".to_owned())
            }
            "signal" => Ok(Self::Signal),
            "exception" => {
                Ok(Self::Exception { name: text("name"), value: text("value"), backtrace: text("backtrace") })
            }
            other => Err(format!("its type is `{other}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let read = |message: Value| Answer::read(&message);
        assert_eq!(read(json!({"type": "reply", "data": {"reply": null}})), Ok(Answer::Reply(Value::Null)));
        assert_eq!(read(json!({"type": "signal", "data": {"reply": 1}})), Ok(Answer::Signal));
        let exception = json!({"type": "exception", "data": {"name": "E", "value": 1, "backtrace": "b"}});
        let expected = Answer::Exception { name: "E".into(), value: "1".into(), backtrace: "b".into() };
        assert_eq!(read(exception), Ok(expected));
        for (message, reason) in [
            (json!([]), "it has no `type`"),
            (json!({"type": "reply"}), "it has no `data`"),
            (json!({"type": "reply", "data": {}}), "it has no `reply`"),
            (json!({"type": "method", "data": {}}), "its type is `method`"),
        ] {
            assert_eq!(read(message), Err(reason.to_owned()));
        }
    }
}
