<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * A security notice that a customer finds in their account. Times are UTC, "YYYY-MM-DD HH:MM:SS".
 *
 * @api
 */
interface AccountNoticeInterface
{
    /**
     * Return the notice's id, unique over all customers.
     *
     * @return string
     */
    public function getNoticeId(): string;

    /**
     * Return the title: one line of plain text.
     *
     * @return string
     */
    public function getTitle(): string;

    /**
     * Return the body: plain text; a blank line ends a paragraph, "- " begins an item of a list.
     *
     * @return string
     */
    public function getBody(): string;

    /**
     * Return the language of title and body, such as "de_DE".
     *
     * @return string
     */
    public function getLocale(): string;

    /**
     * Return when the notice was posted.
     *
     * @return string
     */
    public function getCreatedAt(): string;

    /**
     * Return when the customer said that they have read it; null until then.
     *
     * @return string|null
     */
    public function getReadAt(): ?string;
}
