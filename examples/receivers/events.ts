// The events that a receiver gets, as types. Made from the bridge's own models; do not edit.

/** The video's properties, as amux reports them. */
export interface Metadata {
  /** Seconds. */
  duration: number | null;
  fps: number | null;
  /** Pixels. */
  width: number | null;
  /** Pixels. */
  height: number | null;
  seed: number | null;
}

/** An error: a code for programs and a sentence for people. In an error from amux either may be null. */
export interface EventError {
  code: string | number | null;
  message: string | null;
}

/** The task when it ended or changed. */
export interface VideoData {
  /** The task's id, the same as `task_id`. */
  id: string;
  task_id: string;
  watch_id: string;
  status: "unknown" | "queued" | "in_progress" | "completed" | "failed";
  url: string | null;
  format: string | null;
  metadata: Metadata | null;
  /** For a completed video: the URL of its bytes. */
  content_url: string | null;
  error: EventError | null;
  /** The watch's `context`. */
  context: Record<string, unknown> | null;
}

/** An event. Every attempt sends the same bytes. */
export interface VideoEvent {
  /** The same on every attempt: a receiver ignores an id that it has processed. */
  id: string;
  object: "event";
  type: "video.completed" | "video.failed" | "video.timed_out" | "video.unavailable" | "video.queued" | "video.in_progress";
  /** Unix seconds. */
  created_at: number;
  timestamp: string;
  data: VideoData;
}

/** The fields of every event, all null. */
export interface PingData {
  id: null;
  task_id: null;
  watch_id: null;
  status: null;
  url: null;
  format: null;
  metadata: null;
  content_url: null;
  error: null;
  context: null;
}

/** The event that `POST /ping` sends. */
export interface PingEvent {
  id: string;
  object: "event";
  type: "bridge.ping";
  created_at: number;
  timestamp: string;
  data: PingData;
}

/** What a notice for operators is about. Fields that do not apply are null. */
export interface NoticeData {
  /** Host and port. */
  receiver: string | null;
  /** The name of an amux key, never the key. */
  credential: string | null;
  apps: string[] | null;
  /** The number of dead deliveries, or of pending ones. */
  count: number | null;
  /** The first 20. */
  delivery_ids: string[] | null;
  since: string | null;
  /** The name of the operator's token. */
  by: string | null;
  /** The notice for people. */
  message: string;
  /** The operators' page with the watches; needs a public URL. */
  page_url: string | null;
}

/** A notice for operators, sent to `BRIDGE_OPERATIONS_CALLBACK_URL`. */
export interface NoticeEvent {
  id: string;
  object: "event";
  type: "bridge.receiver_failing" | "bridge.receiver_recovered" | "bridge.receiver_paused" | "bridge.receiver_resumed" | "bridge.delivery_dead" | "bridge.key_refused" | "bridge.key_accepted";
  /** Unix seconds. */
  created_at: number;
  timestamp: string;
  data: NoticeData;
}

/** Any event. Its `type` says which one it is. */
export type Event = VideoEvent | PingEvent | NoticeEvent;
