<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\AccountNotice;

use Tocsin\BreachNotification\Api\Data\AccountNoticeInterface;

/**
 * A row of tocsin_account_notice, as its customer may see it.
 */
class AccountNotice implements AccountNoticeInterface
{
    /**
     * @param string $noticeId
     * @param string $title
     * @param string $body
     * @param string $locale
     * @param string $createdAt
     * @param string|null $readAt
     */
    public function __construct(
        private readonly string $noticeId,
        private readonly string $title,
        private readonly string $body,
        private readonly string $locale,
        private readonly string $createdAt,
        private readonly ?string $readAt = null
    ) {
    }

    /**
     * @inheritDoc
     */
    public function getNoticeId(): string
    {
        return $this->noticeId;
    }

    /**
     * @inheritDoc
     */
    public function getTitle(): string
    {
        return $this->title;
    }

    /**
     * @inheritDoc
     */
    public function getBody(): string
    {
        return $this->body;
    }

    /**
     * @inheritDoc
     */
    public function getLocale(): string
    {
        return $this->locale;
    }

    /**
     * @inheritDoc
     */
    public function getCreatedAt(): string
    {
        return $this->createdAt;
    }

    /**
     * @inheritDoc
     */
    public function getReadAt(): ?string
    {
        return $this->readAt;
    }
}
