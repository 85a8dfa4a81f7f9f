//! The id that a Kafka cluster gives a topic when it is made: a topic that was deleted and made again
//! under its name has another one.
//!
//! In: topic names. Out: ids as Kafka's tools print them, or what the broker says of the topic.
//! `rdkafka` has no call for it, so this asks librdkafka itself: see `rd_kafka_DescribeTopics` in
//! its [API](https://docs.confluent.io/platform/current/clients/librdkafka/html/rdkafka_8h.html).
//! Invariant: what librdkafka hands out is freed here, and nothing of it is kept.
#![expect(unsafe_code, reason = "librdkafka's admin call has no safe wrapper")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka_sys as sys;

/// What a cluster says of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicId {
    pub(super) topic: String,
    /// The id, or why there is none.
    pub(super) id: Result<String, String>,
}

/// Frees what librdkafka handed out.
struct Freed<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Freed<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the pointer came from the function's counterpart and is freed once.
            unsafe { (self.1)(self.0) };
        }
    }
}

/// Asks for the ids of topics; waits at most `timeout`.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<TopicId>, String> {
    let names: Vec<CString> = topics
        .iter()
        .map(|t| CString::new(*t).map_err(|_| format!("topic `{t}` contains a zero byte")))
        .collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let handle = client.native_ptr();
    // SAFETY: the client outlives this call; `pointers` holds as many names as are counted.
    let (names, options, queue) = unsafe {
        (
            Freed(
                sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
                sys::rd_kafka_TopicCollection_destroy,
            ),
            Freed(
                sys::rd_kafka_AdminOptions_new(
                    handle,
                    sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
                ),
                sys::rd_kafka_AdminOptions_destroy,
            ),
            Freed(sys::rd_kafka_queue_new(handle), sys::rd_kafka_queue_destroy),
        )
    };
    let mut reason: [c_char; 256] = [0; 256];
    // SAFETY: all pointers are live; the answer comes into our own queue.
    let event = unsafe {
        let (text, bytes) = (reason.as_mut_ptr(), reason.len());
        let set =
            sys::rd_kafka_AdminOptions_set_request_timeout(options.0, timeout_ms, text, bytes);
        if set != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text_of(text));
        }
        sys::rd_kafka_DescribeTopics(handle, names.0, options.0, queue.0);
        Freed(sys::rd_kafka_queue_poll(queue.0, timeout_ms), sys::rd_kafka_event_destroy)
    };
    if event.0.is_null() {
        return Err(format!("no answer within {} s", timeout.as_secs()));
    }
    // SAFETY: the event lives until it is freed at the end of this function, and with it what is
    // read from it.
    unsafe {
        if sys::rd_kafka_event_error(event.0)
            != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return Err(text_of(sys::rd_kafka_event_error_string(event.0)));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err("the broker answered another question".to_owned());
        }
        let mut count = 0;
        let described = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let described =
            if described.is_null() { 0..0 } else { 0..count }.map(|at| *described.add(at));
        Ok(described.map(|topic| read(topic)).collect())
    }
}

/// Reads one description.
///
/// # Safety
/// `topic` must be a live description.
unsafe fn read(topic: *const sys::rd_kafka_TopicDescription_t) -> TopicId {
    // SAFETY: the caller's promise; librdkafka's strings are zero-terminated.
    unsafe {
        let name = text_of(sys::rd_kafka_TopicDescription_name(topic));
        let error = sys::rd_kafka_TopicDescription_error(topic);
        let failed = !error.is_null()
            && sys::rd_kafka_error_code(error)
                != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        let uuid = sys::rd_kafka_TopicDescription_topic_id(topic);
        let id = match () {
            () if failed => Err(text_of(sys::rd_kafka_error_string(error))),
            () if uuid.is_null() => Err("the broker is too old to give topics an id".to_owned()),
            () => Ok(text_of(sys::rd_kafka_Uuid_base64str(uuid))),
        };
        TopicId { topic: name, id }
    }
}

/// A copy of librdkafka's text.
///
/// # Safety
/// `text` must be null or zero-terminated.
unsafe fn text_of(text: *const c_char) -> String {
    if ptr::eq(text, ptr::null()) {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
