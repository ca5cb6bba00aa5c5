"""Content-based music recommendation: from sound, plays and thumbs to playlists.

Nothing is imported here, so that serving a playlist never waits for a training library.
"""
