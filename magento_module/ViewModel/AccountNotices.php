<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\ViewModel;

use Magento\Customer\Model\Session;
use Magento\Framework\Stdlib\DateTime\TimezoneInterface;
use Magento\Framework\UrlInterface;
use Magento\Framework\View\Element\Block\ArgumentInterface;
use Tocsin\BreachNotification\Api\Data\AccountNoticeInterface;
use Tocsin\BreachNotification\Api\GetAccountNoticesInterface;
use Tocsin\BreachNotification\Model\AccountNotice\SplitNoticeText;

/**
 * The security notices of the customer who is logged in, for pages that no cache keeps.
 */
class AccountNotices implements ArgumentInterface
{
    /**
     * @param Session $session
     * @param GetAccountNoticesInterface $getAccountNotices
     * @param SplitNoticeText $splitNoticeText
     * @param TimezoneInterface $timezone
     * @param UrlInterface $url
     */
    public function __construct(
        private readonly Session $session,
        private readonly GetAccountNoticesInterface $getAccountNotices,
        private readonly SplitNoticeText $splitNoticeText,
        private readonly TimezoneInterface $timezone,
        private readonly UrlInterface $url
    ) {
    }

    /**
     * Return all notices, unread ones first.
     *
     * @return AccountNoticeInterface[]
     */
    public function all(): array
    {
        $customerId = (int)$this->session->getCustomerId();
        return $customerId ? $this->getAccountNotices->execute($customerId) : [];
    }

    /**
     * Return those that the customer has not said to have read.
     *
     * @return AccountNoticeInterface[]
     */
    public function unread(): array
    {
        return array_values(array_filter(
            $this->all(),
            static fn (AccountNoticeInterface $notice): bool => $notice->getReadAt() === null
        ));
    }

    /**
     * Return those that the customer has read.
     *
     * @return AccountNoticeInterface[]
     */
    public function read(): array
    {
        return array_values(array_filter(
            $this->all(),
            static fn (AccountNoticeInterface $notice): bool => $notice->getReadAt() !== null
        ));
    }

    /**
     * Return the blocks of a notice's body; nothing is escaped.
     *
     * @param AccountNoticeInterface $notice
     * @return array<int, array{kind: string, lines: string[]}>
     */
    public function blocks(AccountNoticeInterface $notice): array
    {
        return $this->splitNoticeText->execute($notice->getBody());
    }

    /**
     * Return the notice's language as HTML writes it (de-DE): it need not be the page's.
     *
     * @param AccountNoticeInterface $notice
     * @return string
     */
    public function language(AccountNoticeInterface $notice): string
    {
        return str_replace('_', '-', $notice->getLocale());
    }

    /**
     * Return a UTC time as the day in the store's own zone and language.
     *
     * @param string $at
     * @return string
     */
    public function day(string $at): string
    {
        return $this->timezone->formatDateTime(
            new \DateTime($at, new \DateTimeZone('UTC')),
            \IntlDateFormatter::LONG,
            \IntlDateFormatter::NONE
        );
    }

    /**
     * Return where "I have read this" is posted to.
     *
     * @return string
     */
    public function readUrl(): string
    {
        return $this->url->getUrl('security_notices/notice/read');
    }
}
