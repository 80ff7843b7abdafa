"""Realtime events: published to a channel, told to those who subscribe. MongoDB `realtime_events`."""

import asyncio
from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self
from uuid import UUID

from multidb.errors import DataError, InvalidCursorError, MultiDBError, NotOpenError
from multidb.models.fields import utc_now
from multidb.models.realtime_events import RealtimeEvent
from multidb.repositories.append_only import AppendOnlyRepository
from multidb.repositories.collection_effects import EventEffects
from multidb.repositories.event_feed import EventFeed, Listener
from multidb.repositories.paging import Place
from multidb.repositories.repository import Resources, checked_id, known_value
from multidb.repositories.windows import checked_length
from multidb.stores.completion import complete
from multidb.stores.mongo.documents import Document

__all__ = ["RealtimeEventRepository", "Subscription"]

#: Events a round trip of a replay.
_PAGE = 100

#: Events that may wait for one subscriber. What comes then, it reads from the collection once it is ready.
_QUEUED = 1000

#: By how much events may be stored in another order than their timestamps have, at most: clocks that
#: differ, and writes that take long.
_OVERLAP = timedelta(seconds=5)
#: And the longest that one may say.
_MAX_OVERLAP = timedelta(days=366)


class RealtimeEventRepository(AppendOnlyRepository[RealtimeEvent]):
    """The calls on events. `find` gives the newest first; retention deletes those of yesterday."""

    collection = "realtime_events"
    order_by = "-timestamp"
    effects = EventEffects

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._feed = EventFeed(resources.mongo, self.collection, operation=self._operation("subscribe"))

    async def publish(self, event: RealtimeEvent) -> UUID:
        """Store an event, for its channel's subscribers in every process, and return its id.

        Subscribers are told once a majority has it, also where the answer to this call is lost.

        Raises: as `append`: publishing the same event again never stores it twice.
        """
        return await self.append(event)

    def subscribe(
        self,
        *channels: str,
        after: UUID | None = None,
        since: datetime | None = None,
        overlap: timedelta = _OVERLAP,
    ) -> "Subscription":
        """Return the events of these channels, those to come, after those that are kept if asked for.

        ::

            async with db.realtime_events.subscribe("orders", after=last_seen) as events:
                async for event in events: ...

        With `since`, it begins with the events of that moment and later ones; with `after`, behind
        the event of this id; else when the block is entered. What is kept comes by `timestamp` and
        id, what is new in the order in which MongoDB stored it, which is that of no clock: of
        publishers that do not wait for each other, either may come first. There is no gap between.

        None comes twice in one subscription, and none is missed, also while connections break and
        primaries change. A subscriber that falls behind by 1,000 events reads on from the
        collection. The one limit is `overlap`: a subscription goes on at a timestamp, and an event
        stored later than that, by more, with an earlier one, is missed then; with `after`, events of
        that long before it come again. Hundreds of subscriptions share one change stream.

        Raises: when entering, InvalidCursorError if the event `after` is not kept any more, and
        UnavailableError; while iterating, NotOpenError once the database is closed.
        Source: MongoDB, change stream and index `channel_timestamp_id`.
        """
        operation = self._operation("subscribe")
        if not channels:
            raise DataError("name one channel or more", operation=operation)
        if None in channels:
            raise DataError("`channels` must be texts, and None is none", operation=operation)
        names = {str(known_value(RealtimeEvent, "channel", each, operation)) for each in channels}
        if after is not None and since is not None:
            raise DataError("give `after` or `since`, not both", operation=operation)
        if after is not None:
            checked_id(after, operation, "after")
        if since is not None:
            since = known_value(RealtimeEvent, "timestamp", since, operation)
        checked_length(overlap, "overlap", operation, _MAX_OVERLAP)
        return Subscription(self, self._feed, sorted(names), after=after, since=since, overlap=overlap)

    async def _last_seen(self, id: UUID) -> RealtimeEvent:
        """Return the event that a subscription goes on behind."""
        event = await self.get(id)
        if event is None:
            raise InvalidCursorError(
                "the event `after` is not kept, or not any more",
                store="mongo",
                operation=self._operation("subscribe"),
            )
        return event

    async def _page(
        self, channels: Sequence[str], since: datetime, place: Place | None
    ) -> tuple[list[RealtimeEvent], Place | None]:
        """Return the next kept events since a moment, and their end's place if there may be others."""
        operation = self._operation("subscribe")
        keyset = self._keyset(("timestamp", "id"), operation)
        query = {"channel": {"$in": list(channels)}, "timestamp": {"$gte": since}}
        documents, more = await self._found(query, keyset, _PAGE, place, operation)
        end = Place(keyset.position(documents[-1])) if more else None
        return list(map(self._read, documents)), end


class Subscription(Listener):
    """The events of some channels, in the order they come. Made by `RealtimeEventRepository.subscribe`.

    Of one task at a time; a `__anext__` that is cancelled loses nothing.
    """

    def __init__(
        self,
        events: RealtimeEventRepository,
        feed: EventFeed,
        channels: Sequence[str],
        *,
        after: UUID | None,
        since: datetime | None,
        overlap: timedelta,
    ) -> None:
        self._events = events
        self._feed = feed
        self._channels = channels
        self._after = after
        self._since = since
        self._overlap = overlap
        #: What was told, and whether more was than fits.
        self._told: deque[Document] = deque()
        self._behind = False
        #: What is read from the collection: up to where, and what of it is still to be given.
        self._reading: tuple[datetime, Place | None] | None = None
        self._read: deque[RealtimeEvent] = deque()
        #: The latest moment of an event that was given, and the events given near it.
        self._reached = utc_now()
        self._given: dict[UUID, datetime] = {}
        self._most_given = _PAGE
        self._news = asyncio.Event()
        self._error: MultiDBError | None = self._outside()

    async def __aenter__(self) -> Self:
        self._reached = utc_now()
        await self._feed.join(self, self._channels)
        self._error = None
        try:
            if self._since is not None:
                self._reading = self._since, None
            elif self._after is not None:
                last = await self._events._last_seen(self._after)  # noqa: SLF001
                self._given[last.id] = last.timestamp
                self._reading = last.timestamp - self._overlap, None
        except BaseException:
            await complete(self._feed.leave(self, self._channels))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fail(self._outside())
        await complete(self._feed.leave(self, self._channels))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RealtimeEvent:
        while True:
            while self._read:
                if self._is_new(event := self._read.popleft()):
                    return event
            if self._reading is not None:
                since, place = self._reading
                events, end = await self._events._page(self._channels, since, place)  # noqa: SLF001
                self._read.extend(events)
                self._reading = None if end is None else (since, end)
            elif self._told:
                event = self._events._read(deepcopy(self._told.popleft()))  # noqa: SLF001
                if self._is_new(event):
                    return event
            elif self._behind:
                # What is told from now on waits behind what is read.
                self._behind = False
                self._reading = self._reached - self._overlap, None
            elif self._error is not None:
                raise self._error
            else:
                self._news.clear()
                await self._news.wait()

    def tell(self, document: Document) -> None:
        if self._behind or len(self._told) >= _QUEUED:
            self._behind = True
        else:
            self._told.append(document)
        self._news.set()

    def missed(self) -> None:
        self._behind = True
        self._news.set()

    def fail(self, error: MultiDBError) -> None:
        self._error = error
        self._news.set()

    @staticmethod
    def _outside() -> NotOpenError:
        return NotOpenError(
            "events come inside the block alone: `async with ...subscribe(...) as events`",
            store="mongo",
            operation="realtime_events.subscribe",
        )

    def _is_new(self, event: RealtimeEvent) -> bool:
        """Tell whether an event was not given yet, and note that it is now."""
        if event.id in self._given:
            return False
        self._given[event.id] = event.timestamp
        # A clock that is ahead must not lead past what others publish.
        self._reached = max(self._reached, min(event.timestamp, utc_now()))
        if len(self._given) > 2 * self._most_given:
            since = self._reached - self._overlap
            self._given = {id: moment for id, moment in self._given.items() if moment >= since}
            self._most_given = max(_PAGE, len(self._given))
        return True
