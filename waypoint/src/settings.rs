//! The snapshot that requests are judged by: resources of the controller, merged per service.
